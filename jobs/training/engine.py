"""The engine of one training: settled once, then kept with its checkpoints.

A resumed training reads what the first attempt settled, so its numerics never change midway. On a
CPU nothing is timed; on a GPU compilation is (untested on CUDA), and all workers take what the
first one found.
"""

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.training.objective import Share
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.compilation import compile_times
from slimctl.models.engine import Engine, choose_engine
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

RECORD = "engine.json"


def recorded_engine(folder: Blobs) -> Engine:
    """What a training settled on; the default if it left no record."""
    return _read(folder) or Engine()


def settle_engine(
    folder: Blobs,
    spec: TrainingSpec,
    network: nn.Module,
    architecture: NetworkSpec,
    image: ImageShape,
    share: Share,
) -> Engine:
    """The engine of a training: the recorded one if this device has it too, else a fresh choice."""
    chosen = choose_engine(share.device, "training", spec.precision)
    known = _read(folder)
    if known is not None and known.model_copy(update={"compiled": False}) == chosen:
        return known
    if share.device.type == "cuda":
        pays = _compiling_pays(spec.steps, network, chosen, architecture, image, share)
        chosen = chosen.model_copy(update={"compiled": _as_the_first(pays, share.device)})
    if share.first == 0:
        folder.write(RECORD, chosen.model_dump_json().encode())
    return chosen


def _read(folder: Blobs) -> Engine | None:
    try:
        return Engine.model_validate_json(folder.read(RECORD))
    except (FileNotFoundError, ValidationError):
        return None


def _as_the_first(answer: bool, device: torch.device) -> bool:
    """The first worker's answer, for every worker."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return answer
    agreed = torch.tensor([answer], dtype=torch.int32, device=device)
    torch.distributed.broadcast(agreed, 0)
    return bool(agreed.item())


def _compiling_pays(
    steps: int,
    network: nn.Module,
    engine: Engine,
    architecture: NetworkSpec,
    image: ImageShape,
    share: Share,
) -> bool:
    placed = engine.place(network, share.device)
    shape = (share.count, image.channels, image.size, image.size)
    xt, t = torch.randn(shape, device=share.device), torch.rand(share.count, device=share.device)
    label = torch.zeros(share.count, dtype=torch.int64, device=share.device)
    inputs = (xt, t, label if image.classes else None)
    compiled = engine.model_copy(update={"compiled": True})
    identity = {
        "network": architecture.model_dump(mode="json"),
        "shape": shape,
        "engine": engine.model_dump(mode="json"),
        "device": torch.cuda.get_device_name(share.device),
        "torch": torch.__version__,
    }
    eager, fast = engine.runner(placed), compiled.runner(placed)
    times = compile_times(identity, lambda: _step(eager, inputs), lambda: _step(fast, inputs))
    return times.pays(steps)


def _step(runner: nn.Module, inputs: tuple[Tensor, Tensor, Tensor | None]) -> None:
    """A step without its update: forward, backward, and waiting for the device."""
    runner(*inputs).square().mean().backward()
    for weight in runner.parameters():
        weight.grad = None
    torch.accelerator.synchronize()
