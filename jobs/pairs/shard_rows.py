"""Single pairs out of shards on disk.

Read, not mapped: pages of a mapping count as resident memory of the process, and those of a set
that is drawn from at random all become resident in the end. What is read often stays in the
system's cache of files all the same.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.store import Store

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""
_TYPES = {"x1": ("F16", torch.float16), "x0": ("F32", torch.float32)}
"""Type of the numbers of a tensor of a shard, as its header and as torch call it."""


class ShardRows:
    """Random access to the images of a pair set, or to its noise where that is stored.

    Args:
        store: where the shards are.
        pairs: the set.
        tensor: x1, or x0 of pairs made elsewhere.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """

    def __init__(self, store: Store, pairs: PairSet, tensor: Literal["x0", "x1"] = "x1") -> None:
        self._shape = (pairs.image.channels, pairs.image.size, pairs.image.size)
        self._dtype = _TYPES[tensor][1]
        numbers = pairs.image.channels * pairs.image.size**2
        self._row_bytes = self._dtype.itemsize * numbers
        self._shard_size = pairs.shard_size
        self._paths = [store.shard(shard) for shard in pairs.shards]
        self._starts = [_start_of(tensor, path, self._shape) for path in self._paths]

    def read(self, index: Tensor) -> Tensor:
        """The tensor's rows `index` (int64 on the CPU): (B, C, H, W), x1 float16, x0 float32."""
        if len(index) == 0:
            return torch.empty((0, *self._shape), dtype=self._dtype)
        rows = bytearray(len(index) * self._row_bytes)
        view = memoryview(rows)
        for shard, places in self._by_shard(index):
            file = os.open(self._paths[shard], os.O_RDONLY)
            try:
                for place, row in places:
                    part = view[place * self._row_bytes : (place + 1) * self._row_bytes]
                    at = self._starts[shard] + row * self._row_bytes
                    if os.preadv(file, [part], at) != self._row_bytes:
                        raise DamagedArtifact(str(self._paths[shard]), f"ends before row {row}")
            finally:
                os.close(file)
        return torch.frombuffer(rows, dtype=self._dtype).view(-1, *self._shape)

    def _by_shard(self, index: Tensor) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each shard asked for, with (place in the batch, row of the shard)."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place, number in enumerate(index.tolist()):
            shard, row = divmod(number, self._shard_size)
            wanted.setdefault(shard, []).append((place, row))
        yield from sorted(wanted.items())


def _start_of(tensor: str, path: Path, shape: tuple[int, ...]) -> int:
    """Where the numbers of a tensor begin in a shard, bytes."""
    code, dtype = _TYPES[tensor]
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            entry = json.loads(file.read(length))[tensor]
        fits = entry["dtype"] == code and tuple(entry["shape"][1:]) == shape
        start = _LENGTH_BYTES + length + int(entry["data_offsets"][0])
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedArtifact(str(path), "has no header of a shard") from error
    if not fits:
        raise DamagedArtifact(str(path), f"holds other images than {dtype} {shape}")
    return start
