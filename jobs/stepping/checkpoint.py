"""Checkpoints of a learner: tensors in safetensors, all else in the JSON that points to them.

`state.json` is written last, atomically, and names the tensors with their checksum; so the pair is
of one moment or is not believed.
"""

import hashlib
import json
from typing import Any

from safetensors.torch import load, save

from slimctl.jobs.storage.blobs import Blobs
from slimctl.models.stepping.double_dqn import LearnerState

POINTER = "state.json"


def save_state(folder: Blobs, state: LearnerState, seconds: float) -> None:
    """Writes the tensors, then the JSON, then removes the tensors before.

    Args:
        folder: of this training seed.
        state: of the learner.
        seconds: training time so far, over all attempts, s.
    """
    data = save({name: value.contiguous() for name, value in state.tensors.items()})
    checksum = hashlib.sha256(data).hexdigest()
    name = f"state-{checksum[:16]}.safetensors"
    folder.write(name, data)
    pointer = {"file": name, "sha256": checksum, "seconds": seconds, "notes": dict(state.notes)}
    folder.write(POINTER, json.dumps(pointer).encode())
    for stale in folder.names():
        if stale.startswith("state-") and stale != name:
            folder.delete(stale)


def load_state(folder: Blobs) -> tuple[LearnerState, float] | None:
    """The state and its training time, s; None if there is none that can be read whole."""
    try:
        pointer: dict[str, Any] = json.loads(folder.read(POINTER))
        data = folder.read(str(pointer["file"]))
        if hashlib.sha256(data).hexdigest() != pointer["sha256"]:
            return None
        return LearnerState(load(data), pointer["notes"]), float(pointer["seconds"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
