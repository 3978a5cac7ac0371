"""Times a training step, beside the official code's.

Both: rectified flow on a batch of images, gradient clipping, Adam and the weight average. Ours is
the project's own training loop (`slimctl.jobs.training.loop`), the official one that of its
train.py without data loading.

    python -m benchmarks.training [--preset cifar10-15.7m] [--batch 16] [--reference PATH] [--json]
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Case, Machine, Rates, in_turn, measure_rates, report, this_machine
from benchmarks.networks import engines, forward_floor, parser, start_official
from benchmarks.official import Official, random_inputs
from benchmarks.teacher import FlowOnImages, LoopSettings
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models.engine import Engine
from slimctl.models.networks.presets import PRESETS, Preset
from slimctl.models.spec import ImageShape

STEPS = 10**9


class Stepper:
    """Our training loop, stopped after every step.

    Args:
        network: with its first weights.
        image: shape of its images.
        images: what it learns, float32 (N, C, H, W) on the device.
        engine: how it is computed.
        machine: where.
        batch: images in a step; None = all.
        rate: Adam's learning rate.
    """

    def __init__(
        self,
        network: nn.Module,
        image: ImageShape,
        images: Tensor,
        engine: Engine,
        machine: Machine,
        batch: int | None = None,
        rate: float = 2e-4,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slimctl-benchmark-")
        count = batch or len(images)
        share = Share(0, count, count, machine.device)
        settings = LoopSettings(steps=STEPS, batch_size=count, learning_rate=rate)
        objective = FlowOnImages(images, image)
        folder = LocalBlobs(Path(self._folder.name))
        self._trainer = Trainer(
            settings, network, objective, share, folder, lambda step, metrics: None, engine=engine
        )
        self._steps = self._trainer.steps()

    def step(self) -> Tensor:
        """One optimizer step; its loss, still on the device."""
        return next(self._steps)

    def average(self) -> dict[str, Tensor]:
        """The averaged weights and the buffers, by name."""
        return dict(self._trainer.ema.average)


def step_floor(preset: Preset, batch: int, rates: Rates, dtype: str) -> float:
    """Three forward passes' worth of products, and the traffic of the update, s.

    The update reads weight, gradient, two moments and the average, and writes all but the gradient:
    nine numbers of four bytes a weight.
    """
    products = 3.0 * forward_floor(preset, batch, rates, dtype)
    return products + 9 * 4 * preset.parameters / rates.bytes_per_s


def _case(
    preset: Preset,
    rounds: int,
    engine: Engine,
    machine: Machine,
    rates: Rates,
    official: Official | None,
    images: Tensor,
) -> Case:
    network = preset.network.build(preset.image) if official is None else official.our_network()
    stepper = Stepper(network, preset.image, images, engine, machine)
    stepper.step()
    if official is not None:
        official.ask("step")
    ours, reference, ratio = in_turn(
        lambda: machine.seconds(stepper.step),
        None if official is None else lambda: official.seconds("step"),
        rounds,
    )
    name = f"step {preset.name} batch {len(images)} {engine.precision}"
    device = machine.describe()["device"]
    floor = step_floor(preset, len(images), rates, engine.precision)
    more = {"engine": engine.model_dump(), "batch": len(images)}
    return Case(name, device, engine.precision, ours, floor, reference, ratio, more)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = parser(__doc__ or "").parse_args(arguments)
    machine = this_machine(options.threads)
    torch.manual_seed(0)
    preset = PRESETS[options.preset]
    inputs = random_inputs(preset.image, options.batch, machine)
    official = start_official(options.reference, preset, inputs, machine)
    rates = measure_rates(machine)
    cases = [
        _case(preset, options.rounds, engine, machine, rates, official, inputs["x1"])
        for engine in engines(machine)[::-1]
    ]
    if official is not None:
        official.close()
    head = machine.describe() | {
        "matrix_flops": dict(rates.flops), "copy_bytes_per_s": rates.bytes_per_s
    }  # fmt: skip
    report(head, cases, as_json=options.json)


if __name__ == "__main__":
    main()
