"""A teacher for timing pairs: a small NCSN++ trained on drawn images, kept in the user's cache.

Drawn, so that a machine without data can run the benchmark: two discs or squares with sharp edges
on a gradient, every colour and place at random.
"""

import hashlib
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.measure import Machine
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.engine import choose_engine
from slimctl.models.flows.spec import UniformTime
from slimctl.models.losses import flow_matching_loss
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=16)
NETWORK = SongUNetSpec(channels=32, channel_multipliers=(1, 2), blocks=1)
COUNT = 4096
BATCH = 32
FASTEST = 60.0
"""Largest angle, rad, that a feature of time kept for the teacher turns by from t = 0 to 1."""


class LoopSettings(TrainingSpec):
    """The settings of the training loop without a job around them."""

    def run(self, context: object) -> object:  # type: ignore[override]
        raise NotImplementedError


class FlowOnImages(Objective):
    """Flow matching on images in memory.

    Args:
        images: float32 (N, C, H, W) in [-1, 1].
        image: their shape.
    """

    def __init__(self, images: Tensor, image: ImageShape) -> None:
        self._images, self._image = images, image

    def prepare(self, share: Share) -> None:
        self._draws = Draws(0, share, self._image)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x1 = self._images[draws.samples(step, len(self._images))]
        t = draws.times(step, UniformTime())
        return draws.weighted(flow_matching_loss(network, draws.noise(step), x1, t).mean())


def drawn_images(count: int, image: ImageShape, seed: int = 0) -> Tensor:
    """Random pictures, float32 (count, C, H, W) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    line = (torch.arange(image.size) + 0.5) / image.size
    y, x = torch.meshgrid(line, line, indexing="ij")
    colours = uniform(4, count, image.channels, 1, 1)
    slope = (uniform(count, 1, 1, 1) * x + uniform(count, 1, 1, 1) * y) / 2
    picture = colours[0] * slope + colours[1] * (1 - slope)
    for colour in colours[2:]:
        dx, dy = x - uniform(count, 1, 1, 1), y - uniform(count, 1, 1, 1)
        square = torch.maximum(dx.abs(), dy.abs())
        disc = (dx.square() + dy.square()).sqrt()
        distance = torch.where(uniform(count, 1, 1, 1) < 0.5, disc, square)
        inside = distance < 0.1 + 0.25 * uniform(count, 1, 1, 1)
        picture = torch.where(inside, colour, picture)
    return picture * 2 - 1


def trained_teacher(steps: int, machine: Machine) -> SongUNet:
    """The averaged network after that many training steps; made once per machine."""
    name = f"{BATCH}{FASTEST}{NETWORK.model_dump_json()}{IMAGE.model_dump_json()}{steps}"
    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slimctl"
    path = root / f"benchmark-teacher-{key}.safetensors"
    torch.manual_seed(0)
    network = NETWORK.build(IMAGE)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(_train(network, steps, machine), path)
    network.load_state_dict(load_file(path))
    return network.to(machine.device).eval().requires_grad_(requires_grad=False)


def leave_out_fast_features(network: SongUNet) -> None:
    """Keeps a short training from following features that turn up to 999 rad over the flow's time.

    They make the velocity jitter in time, which a long training smooths out, and rk45 then takes
    hundreds of evaluations (measured: 410 after 300 steps with them).
    """
    layer = network.embedding.time_in
    pairs = network.embedding.pairs
    index = torch.arange(pairs, dtype=torch.float32)
    angle = 999.0 * torch.exp(index * (-math.log(10000) / (pairs - 1)))
    kept = (angle < FASTEST).repeat(2).to(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(kept)
    layer.weight.register_hook(lambda gradient: gradient * kept)  # type: ignore[no-untyped-call]


def _train(network: SongUNet, steps: int, machine: Machine) -> dict[str, Tensor]:
    leave_out_fast_features(network)
    images = drawn_images(COUNT, IMAGE).to(machine.device)
    settings = LoopSettings(steps=steps, batch_size=BATCH, learning_rate=1e-3, decay="cosine")
    folder = tempfile.mkdtemp(prefix="slimctl-benchmark-")
    trainer = Trainer(
        settings,
        network,
        FlowOnImages(images, IMAGE),
        Share(0, BATCH, BATCH, machine.device),
        LocalBlobs(folder),
        lambda step, metrics: print(
            f"teacher: step {step} of {steps}, loss {metrics['loss']:.4f}", file=sys.stderr
        ),
        engine=choose_engine(machine.device, "training"),
    )
    trainer.run()
    shutil.rmtree(folder)
    return {name: value.cpu().contiguous() for name, value in trainer.ema.average.items()}
