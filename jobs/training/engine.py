"""The engine of one training: settled once, then kept with its checkpoints.

A resumed training reads what the first attempt settled, so its numerics never change midway. On a
CPU nothing is timed; on a GPU the first worker times compilation (untested on CUDA) on a copy of
the network, whose programs are then dropped: so the network itself is compiled at its first step
on every attempt, inside of what exchanges its gradients, which cuts the program where it does.
"""

from collections.abc import Callable

import torch
from pydantic import ValidationError

from slimctl.jobs.storage.blobs import Blobs
from slimctl.models.compilation import compile_times
from slimctl.models.engine import Engine

RECORD = "engine.json"


class SettledEngine(Engine):
    """An engine, with what was measured for it."""

    eager_s: float | None = None
    """Time of forward and backward as they are, s; None = not timed."""
    compiled_s: float | None = None
    """The same compiled, s; None = there was too little to do to try."""
    compiling_s: float | None = None
    """Time of the first compiled step, s."""


def recorded_engine(folder: Blobs) -> SettledEngine:
    """What a training settled on; the default if it left no record."""
    return _read(folder) or SettledEngine()


def settle_engine(
    folder: Blobs,
    chosen: Engine,
    device: torch.device,
    rank: int,
    steps: int,
    rehearse: Callable[[bool], Callable[[], None]] | None,
) -> Engine:
    """The engine of a training: the recorded one if this device has it too, else a fresh choice.

    Args:
        folder: where the record is.
        chosen: what the device and the spec ask for, not compiled.
        device: where the training is.
        rank: 0 measures and writes; the others take its answer.
        steps: that are left.
        rehearse: makes one step's forward and backward, on a copy of the network, compiled or not;
            None = nothing is compiled.
    """
    known = _read(folder)
    if known is not None and _chosen(known) == chosen:
        return Engine.model_validate(known.model_dump(include=set(Engine.model_fields)))
    settled = SettledEngine.model_validate(chosen.model_dump())
    if rehearse is not None and compiles(device):
        settled = _measured(settled, steps, rehearse) if rank == 0 else settled
        compiled = _as_the_first(settled.compiled, device)
        chosen = chosen.model_copy(update={"compiled": compiled})
    if rank == 0:
        folder.write(RECORD, settled.model_dump_json(exclude_none=True).encode())
    return chosen


def compiles(device: torch.device) -> bool:
    """Whether compiling can pay there: on a CPU it takes minutes."""
    return device.type == "cuda"


def _measured(
    settled: SettledEngine, steps: int, rehearse: Callable[[bool], Callable[[], None]]
) -> SettledEngine:
    times = compile_times(steps, rehearse(False), rehearse(True))
    torch._dynamo.reset()  # noqa: SLF001
    found = {
        "compiled": times.pays(steps),
        "eager_s": times.eager_s,
        "compiled_s": times.compiled_s,
        "compiling_s": times.first_s,
    }
    return settled.model_copy(update=found)


def _chosen(settled: SettledEngine) -> Engine:
    """What it was settled from."""
    chosen = set(Engine.model_fields) - {"compiled"}
    return Engine.model_validate(settled.model_dump(include=chosen))


def _read(folder: Blobs) -> SettledEngine | None:
    try:
        return SettledEngine.model_validate_json(folder.read(RECORD))
    except (FileNotFoundError, ValidationError):
        return None


def _as_the_first(answer: bool, device: torch.device) -> bool:
    """The first worker's answer, for every worker."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return answer
    agreed = torch.tensor([answer], dtype=torch.int32, device=device)
    torch.distributed.broadcast(agreed, 0)
    return bool(agreed.item())
