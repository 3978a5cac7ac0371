"""Checkpoints of a training in a job's work folder, written beside the training.

`latest.json` is written after the file it names, atomically; it lists the newest checkpoints first
with their checksums, so that a damaged one falls back to the one before.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from types import TracebackType
from typing import Self

import torch
from pydantic import TypeAdapter
from safetensors.torch import load
from torch import Tensor

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.jobs.storage.tensors import safetensors_pieces
from slimctl.models.sharding import whole
from slimctl.models.spec import Spec

POINTER = "latest.json"
COPY = "latest.copy.json"
"""The pointer again: one damaged file must not cost a whole training."""
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after `step` optimizer steps."""

    step: int
    seconds: float
    """Training time so far, over all attempts, s."""
    tensors: Mapping[str, Tensor]


class _Entry(Spec):
    """A line of the pointer."""

    file: str
    step: int
    seconds: float
    sha256: str


_ENTRIES = TypeAdapter(tuple[_Entry, ...])


def checkpoint_name(step: int) -> str:
    """File name of the checkpoint after `step` optimizer steps."""
    return f"checkpoint-{step:09d}.safetensors"


def save_checkpoint(folder: Blobs, checkpoint: Checkpoint) -> str:
    """Writes a checkpoint, then points to it, then removes old ones; returns its name.

    Its tensors are on the CPU.
    """
    digest = hashlib.sha256()

    def hashed() -> Iterator[memoryview]:
        for piece in safetensors_pieces(checkpoint.tensors):
            digest.update(piece)
            yield piece

    name = checkpoint_name(checkpoint.step)
    folder.write(name, hashed())
    entry = _Entry(
        file=name,
        step=checkpoint.step,
        seconds=checkpoint.seconds,
        sha256=digest.hexdigest(),
    )
    older = [old for old in _entries(folder) if old.step < checkpoint.step]
    kept = (entry, *older)[:KEEP]
    _write_pointer(folder, kept)
    for stale in folder.names():
        if stale.startswith("checkpoint-") and stale not in {item.file for item in kept}:
            folder.delete(stale)
    return name


class CheckpointWriter:
    """Writes the checkpoints of one training in a thread, one at a time.

    The state is copied first, into memory that the next one is copied into again, pinned for that
    of a GPU; the training goes on while it is written. Leaving it as a context waits for the last.
    """

    def __init__(self, folder: Blobs, every_s: float) -> None:
        """Args: where they go, and the time from the end of a write to the next one, s."""
        self._folder = folder
        self._every_s = every_s
        self._copies: dict[str, Tensor] = {}
        self.under_way: Future[str] | None = None
        """The write that has not been waited for; None if there is none."""
        self._ended_s = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.wait()
        elif self.under_way is not None:
            self.under_way.exception()  # the error on its way out is the one to hear of

    def is_due(self) -> bool:
        """Whether it is time for the next one; not while one is being written.

        Raises:
            whatever the last write failed with.
        """
        if self.under_way is not None:
            if not self.under_way.done():
                return False
            self.wait()
        return time.perf_counter() - self._ended_s >= self._every_s

    def begin(self, checkpoint: Checkpoint) -> None:
        """Copies a checkpoint and begins to write it, after the one before it.

        Raises:
            whatever the write before it failed with.
        """
        self.wait()
        copied = self._copy(checkpoint.tensors)
        copy = Checkpoint(checkpoint.step, checkpoint.seconds, self._copies)
        self.under_way = Future()

        def write(ended: Future[str]) -> None:
            try:
                copied()
                name = save_checkpoint(self._folder, copy)
            except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
                ended.set_exception(error)
            else:
                self._ended_s = time.perf_counter()
                ended.set_result(name)

        Thread(target=write, args=(self.under_way,), name="checkpoint", daemon=True).start()

    def wait(self) -> str | None:
        """Waits for the write under way; returns the name of what it wrote, None if there is none.

        Raises:
            whatever it failed with.
        """
        write, self.under_way = self.under_way, None
        return write.result() if write is not None else None

    def _copy(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """Copies tensors to the CPU; returns what waits until they are there.

        A copy from a GPU takes its turn before the next step on the same stream. One tensor at a
        time is whole there, of those that are in parts.
        """
        held, self._copies = self._copies, {}
        on_gpu = False
        for name, each in tensors.items():
            value = whole(each)
            on_gpu |= value.is_cuda
            copy = held.get(name)
            if copy is None or (copy.shape, copy.dtype) != (value.shape, value.dtype):
                copy = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._copies[name] = copy.copy_(value, non_blocking=True)
        if not on_gpu:
            return lambda: None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event.synchronize


def load_checkpoint(folder: Blobs) -> Checkpoint | None:
    """The newest readable checkpoint; None if there is none. Damaged ones leave the pointer."""
    entries = _entries(folder)
    for at, entry in enumerate(entries):
        try:
            data = folder.read(entry.file)
        except FileNotFoundError:
            continue
        if hashlib.sha256(data).hexdigest() == entry.sha256:
            if at > 0:
                _write_pointer(folder, entries[at:])
            return Checkpoint(entry.step, entry.seconds, load(data))
    return None


def _write_pointer(folder: Blobs, entries: Sequence[_Entry]) -> None:
    data = seal({"checkpoints": [entry.model_dump() for entry in entries]})
    folder.write(POINTER, data)
    folder.write(COPY, data)


def _entries(folder: Blobs) -> list[_Entry]:
    """What the pointer lists, newest first, but for lines that contradict themselves."""
    for name in (POINTER, COPY):
        try:
            entries = _ENTRIES.validate_python(unseal(folder.read(name))["checkpoints"])
        except (FileNotFoundError, ValueError, KeyError):
            continue
        return [entry for entry in entries if entry.file == checkpoint_name(entry.step)]
    return []
