"""Single rows of a tensor in safetensors files, without reading the others.

They are read, not mapped: pages of a mapping count as resident memory of the process, and those of
a set that is drawn from at random all become resident in the end. What is read often stays in the
system's cache of files all the same, which all processes of a machine share.
"""

import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from slimctl.jobs.base.errors import DamagedArtifact

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""
_CODES = {torch.uint8: "U8", torch.float16: "F16", torch.float32: "F32"}
"""How its header calls the types of numbers."""


class FileRows:
    """Random access to the rows of a tensor that is spread over files.

    Args:
        paths: the files, in order.
        rows: rows of each file, the last of which may hold fewer; or those of each by itself.
        tensor: its name in each file.
        dtype: its numbers.
        shape: of one row.

    Raises:
        DamagedArtifact: a file does not hold it so.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rows: int | Sequence[int],
        tensor: str,
        dtype: torch.dtype,
        shape: tuple[int, ...],
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.row_bytes = dtype.itemsize * torch.Size(shape).numel()
        each = [rows] * len(paths) if isinstance(rows, int) else rows
        self._ends = list(accumulate(each))
        self._paths = tuple(paths)
        self._starts = [_start_of(tensor, path, dtype, shape) for path in self._paths]

    def read(self, index: Tensor) -> Tensor:
        """The rows `index` (int64 on the CPU): (B, *shape)."""
        rows = torch.empty((len(index), *self.shape), dtype=self.dtype)
        self.fill(index, rows)
        return rows

    def fill(self, index: Tensor, rows: Tensor) -> None:
        """Writes the rows `index` into a tensor (B, *shape) on the CPU."""
        if len(index) == 0:
            return
        view = memoryview(rows.flatten().view(torch.uint8).numpy())  # type: ignore[arg-type]
        for number, places in self._by_file(index):
            file = os.open(self._paths[number], os.O_RDONLY)
            try:
                for place, row in places:
                    part = view[place * self.row_bytes : (place + 1) * self.row_bytes]
                    at = self._starts[number] + row * self.row_bytes
                    if os.preadv(file, [part], at) != self.row_bytes:
                        raise DamagedArtifact(str(self._paths[number]), f"ends before row {row}")
            finally:
                os.close(file)

    def _by_file(self, index: Tensor) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each file asked for, with (place in the batch, row of the file)."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place, at in enumerate(index.tolist()):
            number = bisect_right(self._ends, at)
            row = at - (self._ends[number - 1] if number else 0)
            wanted.setdefault(number, []).append((place, row))
        yield from sorted(wanted.items())


def _start_of(tensor: str, path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Where the numbers of a tensor begin in a file, bytes."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            entry = json.loads(file.read(length))[tensor]
        fits = entry["dtype"] == _CODES[dtype] and tuple(entry["shape"][1:]) == shape
        start = _LENGTH_BYTES + length + int(entry["data_offsets"][0])
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedArtifact(str(path), f"has no header with '{tensor}'") from error
    if not fits:
        raise DamagedArtifact(str(path), f"holds other images than {dtype} {shape}")
    return start
