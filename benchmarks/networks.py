"""Times one evaluation of a network, beside the official code's.

python -m benchmarks.networks [--preset cifar10-15.7m] [--batch 16] [--reference PATH] [--json]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import Case, Machine, Rates, in_turn, measure_rates, report, this_machine
from benchmarks.official import Official, random_inputs
from slimctl.models.engine import Engine, choose_engine
from slimctl.models.metrics.cost import count_macs
from slimctl.models.networks.presets import PRESETS, Preset
from slimctl.models.networks.song_unet.spec import SongUNetSpec


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks of a network share."""
    options = argparse.ArgumentParser(description=description)
    songs = [name for name, preset in PRESETS.items() if preset.family == "song_unet"]
    options.add_argument("--preset", default="cifar10-15.7m", choices=songs)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=7, help="timed turns of each program")
    options.add_argument("--threads", type=int, default=1, help="CPU threads")
    options.add_argument("--reference", type=Path, help="a checkout of yuanzhi-zhu/SlimFlow")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def forward_floor(preset: Preset, batch: int, rates: Rates, dtype: str) -> float:
    """Multiply-adds over the measured matrix rate, s."""
    return 2.0 * batch * count_macs(preset.network, preset.image) / rates.flops[dtype]


def start_official(
    reference: Path | None, preset: Preset, inputs: dict[str, Tensor], machine: Machine
) -> Official | None:
    """The official code on the case; None without a checkout."""
    if reference is None:
        return None
    assert isinstance(preset.network, SongUNetSpec)
    return Official(reference, preset.network, preset.image, inputs, machine)


def engines(machine: Machine) -> list[Engine]:
    """Float32 as for sampling, and what training takes if that is another one."""
    plain = choose_engine(machine.device, "sampling")
    fast = choose_engine(machine.device, "training")
    return [plain] if fast == plain else [plain, fast]


def _network(preset: Preset, official: Official | None, machine: Machine) -> nn.Module:
    if official is not None:
        return official.our_network()
    network: nn.Module = preset.network.build(preset.image)
    return network.to(machine.device)


@torch.no_grad()
def _case(
    preset: Preset,
    batch: int,
    rounds: int,
    engine: Engine,
    machine: Machine,
    rates: Rates,
    official: Official | None,
    inputs: dict[str, Tensor],
) -> Case:
    network = engine.place(_network(preset, official, machine), machine.device).eval()
    run = engine.runner(network)
    output = run(inputs["x"], inputs["t"])
    more: dict[str, object] = {"engine": engine.model_dump(), "batch": batch}
    if official is not None:
        official.ask("forward")
        theirs = official.output().to(machine.device)
        more["relative_difference"] = float((output - theirs).norm() / theirs.norm())
    ours, reference, ratio = in_turn(
        lambda: machine.seconds(lambda: run(inputs["x"], inputs["t"])),
        None if official is None else lambda: official.seconds("forward"),
        rounds,
    )
    floor = forward_floor(preset, batch, rates, engine.precision)
    name = f"forward {preset.name} batch {batch} {engine.precision}"
    device = machine.describe()["device"]
    return Case(name, device, engine.precision, ours, floor, reference, ratio, more)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = parser(__doc__ or "").parse_args(arguments)
    machine = this_machine(options.threads)
    preset = PRESETS[options.preset]
    inputs = random_inputs(preset.image, options.batch, machine)
    official = start_official(options.reference, preset, inputs, machine)
    rates = measure_rates(machine)
    cases = [
        _case(preset, options.batch, options.rounds, engine, machine, rates, official, inputs)
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
