"""Single pairs out of shards on disk.

Read, not mapped: pages of a mapping count as resident memory of the process, and those of a set
that is drawn from at random all become resident in the end. What is read often stays in the
system's cache of files all the same.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from jobs.base.artifacts import PairSet
from jobs.base.errors import DamagedArtifact
from jobs.storage.store import Store

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""


class ShardRows:
    """Random access to x1 of a pair set.

    Args:
        store: where the shards are.
        pairs: the set.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """

    def __init__(self, store: Store, pairs: PairSet) -> None:
        self._shape = (pairs.image.channels, pairs.image.size, pairs.image.size)
        self._row_bytes = 2 * pairs.image.channels * pairs.image.size**2
        self._shard_size = pairs.shard_size
        self._paths = [store.shard(shard) for shard in pairs.shards]
        self._starts = [_start_of_x1(path, self._shape) for path in self._paths]

    def read(self, index: Tensor) -> Tensor:
        """x1 of the pairs `index` (int64 on the CPU): float16 (B, C, H, W)."""
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
        return torch.frombuffer(rows, dtype=torch.float16).view(-1, *self._shape)

    def _by_shard(self, index: Tensor) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each shard asked for, with (place in the batch, row of the shard)."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place, number in enumerate(index.tolist()):
            shard, row = divmod(number, self._shard_size)
            wanted.setdefault(shard, []).append((place, row))
        yield from sorted(wanted.items())


def _start_of_x1(path: Path, shape: tuple[int, ...]) -> int:
    """Where the numbers of `x1` begin in a shard, bytes."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            entry = json.loads(file.read(length))["x1"]
        fits = entry["dtype"] == "F16" and tuple(entry["shape"][1:]) == shape
        start = _LENGTH_BYTES + length + int(entry["data_offsets"][0])
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedArtifact(str(path), "has no header of a shard") from error
    if not fits:
        raise DamagedArtifact(str(path), f"holds other images than float16 {shape}")
    return start
