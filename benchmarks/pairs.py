"""Times reflow pairs from one teacher: a fitted grid, per-sample rk45, the official RK45 at 1e-5.

The teacher is a small NCSN++ that is trained at the first call (`benchmarks.teacher`). Times are of
whole batches, in float32 unless said; errors are the RMS difference from the end points at a
tolerance of 1e-6, on noises that nothing was fitted to or timed on.

    python -m benchmarks.pairs [--evaluations 14] [--batch 32] [--reference PATH] [--json]
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measure import Case, Machine, Rates, in_turn, measure_rates, report, this_machine
from benchmarks.official import Official, official_weights, random_inputs
from benchmarks.teacher import IMAGE, NETWORK, trained_teacher
from slimctl.models.engine import choose_engine
from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.metrics.cost import count_macs
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import ROUNDING_RMS, end_errors, fit_grid, follow
from slimctl.models.solvers.spec import RK45Spec, SolverSpec

EXACT = 1e-6
OFFICIAL_START = 1e-3
"""Time at which the official sampler starts."""


@dataclass(frozen=True)
class Contest:
    """What all cases share."""

    machine: Machine
    rates: Rates
    official: Official | None
    x0: Tensor
    held_out: Tensor
    """Noises that errors are measured on."""
    exact: Tensor
    """Where those end."""
    rounds: int


@torch.no_grad()
def _case(contest: Contest, name: str, flow: Flow, solver: SolverSpec, precision: str) -> Case:
    machine, batch = contest.machine, len(contest.x0)
    nfe = float(solve(solver, flow, contest.x0).nfe.double().mean())
    ends = [solve(solver, flow, part).x1 for part in torch.split(contest.held_out, batch)]
    errors = end_errors(torch.cat(ends), contest.exact)
    official = contest.official
    more: dict[str, object] = {
        "nfe": nfe,
        "error_median": float(errors.median()),
        "error_p90": float(errors.quantile(0.9)),
        "share_within_rounding": float((errors <= ROUNDING_RMS).double().mean()),
        "error_samples": len(errors),
    }
    if official is not None:
        more["reference_nfe"] = official.ask("pairs")["nfe"]
    ours, reference, ratio = in_turn(
        lambda: machine.seconds(lambda: solve(solver, flow, contest.x0)),
        None if official is None else lambda: official.seconds("pairs"),
        contest.rounds,
    )
    floor = 2.0 * nfe * batch * count_macs(NETWORK, IMAGE) / contest.rates.flops[precision]
    more["pairs_per_s"] = batch / ours
    device = machine.describe()["device"]
    return Case(name, device, precision, ours, floor, reference, ratio, more)


def _cases(
    contest: Contest, teacher: torch.nn.Module, evaluations: int, samples: int
) -> list[Case]:
    flow = NetworkFlow(teacher, IMAGE, OFFICIAL_START)
    fast = choose_engine(contest.machine.device, "sampling", "bfloat16")
    low = NetworkFlow(fast.runner(teacher), IMAGE, OFFICIAL_START)
    exact = follow(flow, _noise(samples, 1, contest.machine), None, 1e-5)
    grid = fit_grid(flow, exact, evaluations, rounds=1).solver
    return [
        _case(contest, f"grid {evaluations}", flow, grid, "float32"),
        _case(contest, f"grid {evaluations} bfloat16", low, grid, "bfloat16"),
        _case(contest, "rk45 1e-4", flow, RK45Spec(tolerance=1e-4), "float32"),
    ]


def _noise(count: int, seed: int, machine: Machine) -> Tensor:
    shape = (count, IMAGE.channels, IMAGE.size, IMAGE.size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(machine.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--evaluations", type=int, default=14, help="of the fitted grid")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--samples", type=int, default=32, help="trajectories fitted to")
    options.add_argument("--held-out", type=int, default=64, help="noises for the errors")
    options.add_argument("--teacher-steps", type=int, default=300)
    options.add_argument("--rounds", type=int, default=3, help="timed turns of each program")
    options.add_argument("--threads", type=int, default=1, help="CPU threads")
    options.add_argument("--reference", type=Path, help="a checkout of yuanzhi-zhu/SlimFlow")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    asked = options.parse_args(arguments)
    machine = this_machine(asked.threads)
    teacher = trained_teacher(asked.teacher_steps, machine)
    inputs = random_inputs(IMAGE, asked.batch, machine)
    official = None
    if asked.reference is not None:
        weights = official_weights(teacher, NETWORK, IMAGE)
        official = Official(asked.reference, NETWORK, IMAGE, inputs | weights, machine)
    flow = NetworkFlow(teacher, IMAGE, OFFICIAL_START)
    tight = RK45Spec(tolerance=EXACT, max_evaluations=5000)
    held_out = _noise(asked.held_out, 2, machine)
    exact = torch.cat([solve(tight, flow, part).x1 for part in torch.split(held_out, asked.batch)])
    rates = measure_rates(machine)
    contest = Contest(machine, rates, official, inputs["x"], held_out, exact, asked.rounds)
    cases = _cases(contest, teacher, asked.evaluations, asked.samples)
    if official is not None:
        official.close()
    report(machine.describe() | {"matrix_flops": dict(rates.flops)}, cases, as_json=asked.json)


if __name__ == "__main__":
    main()
