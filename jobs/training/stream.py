"""Batches of what does not fit into the device's memory: read ahead, sent in one copy.

A reader fills one of two buffers with the next batch, all its columns one behind the other, while
the device computes this one. For a GPU the buffers are pinned, so that the copy waits for nothing
and nothing waits for the copy; before a buffer is filled again the reader, not the training, waits
for the copy from it.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from slimctl.jobs.storage.rows import FileRows

INDEX = "index"
"""Column of the numbers of the rows themselves."""
_ALIGNED = 16
"""Bytes to a multiple of which a column begins."""
_READER = ThreadPoolExecutor(1, thread_name_prefix="rows")


class RowStream:
    """Rows of files, with numbers that belong to them, as batches on a device.

    Args:
        columns: rows in files, or in a tensor on the CPU whose rows are single numbers.
        device: where batches are wanted.
    """

    def __init__(self, columns: Mapping[str, FileRows | Tensor], device: torch.device) -> None:
        self._columns = dict(columns)
        self._device = device
        self._buffers = (_Buffer(), _Buffer())
        self._turn = 0
        self._ahead: tuple[Tensor, _Buffer, Future[None]] | None = None

    def read_ahead(self, index: Tensor) -> None:
        """Begins to read the rows that the next `take` will ask for; index int64 on the CPU."""
        layout, size = self._layout(len(index))
        buffer = self._buffers[self._turn]
        self._turn = 1 - self._turn
        if self._ahead is not None:
            self._ahead[2].result()  # of a batch that nobody took, in the other buffer
        memory = buffer.room(size, self._device)

        def fill() -> None:
            buffer.wait()
            for name, rows in _split(memory, layout).items():
                source = self._columns.get(name)
                if isinstance(source, FileRows):
                    source.fill(index, rows)
                else:
                    rows.copy_(index if source is None else source[index])

        self._ahead = index, buffer, _READER.submit(fill)

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """The rows on the device, by column, those of `INDEX` among them.

        Raises:
            DamagedArtifact: a file ends before a row.
        """
        if self._ahead is None or not torch.equal(self._ahead[0], index):
            self.read_ahead(index)
        assert self._ahead is not None
        (_, buffer, reading), self._ahead = self._ahead, None
        reading.result()
        layout, size = self._layout(len(index))
        return _split(buffer.send(size, self._device), layout)

    def _layout(self, count: int) -> tuple["_Layout", int]:
        """Where each column of a batch lies in its buffer, and the bytes of all."""
        at, layout = 0, {}
        for name, source in {INDEX: torch.empty(0, dtype=torch.int64), **self._columns}.items():
            shape = (count, *(source.shape if isinstance(source, FileRows) else ()))
            layout[name] = (at, shape, source.dtype)
            size = torch.Size(shape).numel() * source.dtype.itemsize
            at += -(-size // _ALIGNED) * _ALIGNED
        return layout, at


_Layout = dict[str, tuple[int, tuple[int, ...], torch.dtype]]


def _split(memory: Tensor, layout: _Layout) -> dict[str, Tensor]:
    """The columns in a buffer."""
    parts = {}
    for name, (at, shape, dtype) in layout.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        parts[name] = memory[at : at + size].view(dtype).view(shape)
    return parts


@dataclass
class _Buffer:
    """Memory for one batch, which is kept for a GPU."""

    memory: Tensor | None = None
    sent: torch.cuda.Event | None = None
    """The end of the last copy from it."""

    def room(self, size: int, device: torch.device) -> Tensor:
        """So many bytes, uint8; on a CPU new ones, since the batch itself lies in them."""
        pinned = device.type == "cuda"
        if self.memory is None or not pinned or len(self.memory) < size:
            self.wait()
            self.memory = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self.memory

    def wait(self) -> None:
        """Until nothing is copied from it any more."""
        if self.sent is not None:
            self.sent.synchronize()

    def send(self, size: int, device: torch.device) -> Tensor:
        """Its first bytes on the device."""
        assert self.memory is not None
        batch = self.memory[:size].to(device, non_blocking=True)
        if device.type == "cuda":
            self.sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.sent.record()
        return batch
