"""LPIPS between a job and its workers: the job reads the files, the workers read the store."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.training.distances import (
    LINEAR,
    VGG,
    ImageDistance,
    LPIPSDistance,
    LPIPSHuberDistance,
)
from slimctl.models.engine import choose_engine
from slimctl.models.losses import Distance, distance, pseudo_huber
from slimctl.models.perceptual.lpips import LPIPS, fill_lpips
from slimctl.models.perceptual.weight_file import read_weight_file

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store

FILE = "lpips.safetensors"


def prepare_distance(context: JobContext, spec: ImageDistance) -> None:
    """Puts the weights that a distance needs into the job's work folder.

    Raises:
        UserError: a file does not hold them; every tensor that differs is listed.
    """
    if not isinstance(spec, (LPIPSDistance, LPIPSHuberDistance)) or context.work.exists(FILE):
        return
    network = LPIPS(spec.size)
    try:
        vgg, linear = (read_weight_file(Path(path)) for path in (spec.weights, spec.linear))
        fill_lpips(network, vgg, linear)
    except ValueError as error:
        what, fix = what_and_fix(error)
        fix = fix or f"give {VGG.name} as weights and {LINEAR.name} of the package lpips as linear"
        raise UserError(f"job '{context.job}', distance", what, fix) from error
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    context.work.write(FILE, save(tensors))


def open_distance(
    spec: ImageDistance, store: "Store", artifact_id: str, device: torch.device
) -> Distance:
    """The distance that a spec asks for, on a device."""
    if not isinstance(spec, (LPIPSDistance, LPIPSHuberDistance)):
        return distance(spec)
    network = _open_lpips(spec.size, store.work(artifact_id), device)
    if isinstance(spec, LPIPSDistance):
        return network
    return _WithHuber(network, spec.c, spec.huber_weight)


class _WithHuber(nn.Module):
    """LPIPS and, with a weight, pseudo-Huber over the root of the number of pixel values."""

    def __init__(self, network: nn.Module, c: float | None, weight: float) -> None:
        super().__init__()
        self._network, self._c, self._weight = network, c, weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        root: float = x.shape[1:].numel() ** 0.5
        perceptual: Tensor = self._network(x, y)
        return perceptual + self._weight / root * pseudo_huber(x, y, self._c)


def _open_lpips(size: int | None, work: Blobs, device: torch.device) -> nn.Module:
    network = LPIPS(size)
    network.load_state_dict(load(work.read(FILE)))
    engine = choose_engine(device, "sampling")
    return engine.runner(engine.place(network.eval().requires_grad_(requires_grad=False), device))
