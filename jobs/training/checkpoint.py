"""Checkpoints of a training in a job's work folder.

`latest.json` is written after the file it names, atomically; it lists the newest checkpoints first
with their checksums, so that a damaged one falls back to the one before.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from jobs.storage.blobs import Blobs

POINTER = "latest.json"
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """State of a training after `step` optimizer steps."""

    step: int
    seconds: float
    """Training time so far, over all attempts, s."""
    tensors: Mapping[str, Tensor]


def save_checkpoint(folder: Blobs, checkpoint: Checkpoint) -> str:
    """Writes a checkpoint, then points to it, then removes old ones; returns its name."""
    data = save({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()})
    name = f"checkpoint-{checkpoint.step:09d}.safetensors"
    folder.write(name, data)
    entry = {
        "file": name,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    older = [old for old in _entries(folder) if old["step"] < checkpoint.step]
    kept = [entry, *older][:KEEP]
    folder.write(POINTER, json.dumps(kept, indent=1).encode())
    for stale in folder.names():
        if stale.startswith("checkpoint-") and stale not in {item["file"] for item in kept}:
            folder.delete(stale)
    return name


def load_checkpoint(folder: Blobs) -> Checkpoint | None:
    """The newest readable checkpoint; None if there is none."""
    for entry in _entries(folder):
        try:
            data = folder.read(entry["file"])
        except FileNotFoundError:
            continue
        if hashlib.sha256(data).hexdigest() == entry["sha256"]:
            return Checkpoint(int(entry["step"]), float(entry["seconds"]), load(data))
    return None


def _entries(folder: Blobs) -> list[dict[str, Any]]:
    try:
        entries = json.loads(folder.read(POINTER))
        return [entry for entry in entries if {"file", "step", "seconds", "sha256"} <= set(entry)]
    except (FileNotFoundError, ValueError, TypeError):
        return []
