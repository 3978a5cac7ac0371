"""Checkpoints of a training in a job's work folder.

`latest.json` is written after the file it names, atomically; it lists the newest checkpoints first
with their checksums, so that a damaged one falls back to the one before.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from safetensors.torch import load, save
from torch import Tensor

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.sealed import seal, unseal
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
    """Writes a checkpoint, then points to it, then removes old ones; returns its name."""
    data = save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()})
    name = checkpoint_name(checkpoint.step)
    folder.write(name, data)
    entry = _Entry(
        file=name,
        step=checkpoint.step,
        seconds=checkpoint.seconds,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    older = [old for old in _entries(folder) if old.step < checkpoint.step]
    kept = (entry, *older)[:KEEP]
    _write_pointer(folder, kept)
    for stale in folder.names():
        if stale.startswith("checkpoint-") and stale not in {item.file for item in kept}:
            folder.delete(stale)
    return name


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
