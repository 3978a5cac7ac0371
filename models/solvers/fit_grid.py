"""Fits a solver of n evaluations to a flow's exact end points.

A row of weights decides linearly where a trajectory goes, so each row is a least-squares problem
with a known answer on exact trajectories, and needs no gradient. What is left, the n times, is
searched for: first on a family of two numbers, then one time after the other.

LD3 and BNS descend the whole along the gradient of the end point; rows solved one after another
reach their end in some dozens of passes over the samples instead of thousands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.grid import combine
from slimctl.models.solvers.runge_kutta import trajectory
from slimctl.models.solvers.spec import GridSpec

RIDGE = 1e-9
"""Share of the mean square of the velocities added to the diagonal of the normal equations."""
NODES = 17
"""Points of each exact trajectory that are kept; between them it is a cubic."""
EARLY = (1.0, 1.5, 2.0)
LATE = (1.0, 1.5, 2.0, 3.0)
"""Exponents tried: how much denser than even the times are at the start and at the end."""
NUDGES = (-0.25, 0.25)
"""Moves of a time tried, in shares of the way to its neighbour."""
ROUNDING_RMS = 2.3e-3
"""Root mean square error of rounding pixels of [-1, 1] to 8 bits; of latents in units of theirs."""


@dataclass(frozen=True)
class Trajectories:
    """Exact trajectories of a flow."""

    nodes: Float[Tensor, " k"]
    """Times, float64, from t_start to 1."""
    points: Float[Tensor, "k b c h w"]
    velocities: Float[Tensor, "k b c h w"]
    label: Condition

    def at(self, t: float) -> Float[Tensor, "b c h w"]:
        """Points at time t, by the cubic through the two nearest nodes and their velocities."""
        right = int(torch.searchsorted(self.nodes, t, right=True).clamp(1, len(self.nodes) - 1))
        low, high = float(self.nodes[right - 1]), float(self.nodes[right])
        h = high - low
        s = (t - low) / h
        first, last = self.points[right - 1], self.points[right]
        leaving, arriving = self.velocities[right - 1], self.velocities[right]
        bend = s * s * (3.0 - 2.0 * s)
        return (
            (1.0 - bend) * first
            + bend * last
            + h * s * (1.0 - s) * ((1.0 - s) * leaving - s * arriving)
        )


def follow(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    tolerance: float,
) -> Trajectories:
    """Follows the flow from where the noise enters it to 1; raises as `rk45`."""
    start = flow.t_start
    # Cosine spacing: trajectories bend most at both ends.
    steps = torch.arange(NODES, dtype=torch.float64)
    nodes = start + (1 - start) * (1 - torch.cos(math.pi * steps / (NODES - 1))) / 2
    times = [start, *nodes[1:-1].tolist(), 1.0]
    points, velocities = trajectory(flow, x0, label, times, tolerance)
    kept = torch.tensor(times, dtype=torch.float64)
    return Trajectories(kept, torch.stack(points), torch.stack(velocities), label)


@dataclass(frozen=True)
class GridFit:
    """A grid and how far it is from the samples it was fitted to."""

    solver: GridSpec
    error: float
    """Mean over the samples of log10 RMS of the end point's error."""


def end_unit(ends: Float[Tensor, "b c h w"], *, relative: bool) -> float:
    """What errors of ends are counted in: 1, or where they are relative the ends' RMS.

    Pixels have a scale of their own, [-1, 1], and latents the one that their autoencoder gave them.
    """
    return float(ends.double().square().mean().sqrt()) if relative else 1.0


def end_errors(x: Float[Tensor, "b c h w"], exact: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """RMS error over the pixels of each sample, float64."""
    return (x - exact).double().flatten(1).square().mean(dim=1).sqrt()


@torch.no_grad()
def fit_rows(flow: Flow, exact: Trajectories, times: Sequence[float]) -> GridFit:
    """The best weights for given times, row after row by least squares.

    Row i takes x_i to the exact trajectory at t_i with the velocities that the rows before led to,
    so that it makes good their errors as far as the velocities can.
    """
    x0 = exact.points[0]
    x, velocities, rows = x0, [], []
    for t, t_next in zip(times, [*times[1:], 1.0], strict=True):
        velocities.append(flow.velocity(x, torch.full_like(x0[:, 0, 0, 0], t), exact.label))
        target = exact.points[-1] if t_next == 1.0 else exact.at(t_next)
        row = _least_squares(velocities, target - x0, t_next - times[0])
        rows.append(row)
        x = combine(x0, row, velocities)
    error = end_errors(x, exact.points[-1]).clamp(min=1e-12).log10().mean()
    return GridFit(GridSpec(times=tuple(times), weights=tuple(rows)), float(error))


def _least_squares(
    velocities: Sequence[Tensor], wanted: Tensor, length: float
) -> tuple[float, ...]:
    """Weights whose sum of velocities is nearest to `wanted`, pulled faintly to even ones."""
    flat = torch.stack([velocity.flatten() for velocity in velocities])
    count = len(flat)
    gram, right = _products(flat, wanted.flatten())
    ridge = RIDGE * float(gram.diagonal().mean())
    gram.diagonal().add_(ridge)
    right += ridge * length / count
    solution: list[float] = torch.linalg.solve(gram, right).tolist()
    return tuple(solution)


def _products(flat: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """F F^T and F w in float64, in pieces that fit a cache."""
    gram = flat.new_zeros((len(flat), len(flat)), dtype=torch.float64)
    right = flat.new_zeros(len(flat), dtype=torch.float64)
    for start in range(0, flat.shape[1], 65536):
        piece = flat[:, start : start + 65536].double()
        gram += piece @ piece.T
        right += piece @ wanted[start : start + 65536].double()
    return gram, right


def warped_times(start: float, evaluations: int, early: float, late: float) -> tuple[float, ...]:
    """Times whose spacing shrinks like a power at both ends; exponents of 1 are even steps."""
    even = [number / evaluations for number in range(evaluations)]
    share = [s**early / (s**early + (1.0 - s) ** late) if s else 0.0 for s in even]
    return tuple(start + (1.0 - start) * s for s in share)


def fit_grid(flow: Flow, exact: Trajectories, evaluations: int, rounds: int) -> GridFit:
    """Times and weights of a solver with that many evaluations, at least 2.

    In each round every time is moved on its own, to where the error is smaller.
    """
    start = flow.t_start
    fits = [
        fit_rows(flow, exact, warped_times(start, evaluations, early, late))
        for early in EARLY
        for late in LATE
    ]
    best = min(fits, key=lambda fit: fit.error)
    for _ in range(rounds):
        for number in range(evaluations - 1, 0, -1):
            moved = [fit_rows(flow, exact, _moved(best.solver.times, number, by)) for by in NUDGES]
            best = min([best, *moved], key=lambda fit: fit.error)
    return best


def _moved(times: Sequence[float], number: int, share: float) -> tuple[float, ...]:
    """The times with one moved by a share of the way to its neighbour before or after."""
    bounds = (*times, 1.0)
    gap = bounds[number] - bounds[number - 1] if share < 0 else bounds[number + 1] - bounds[number]
    return (*times[:number], times[number] + share * gap, *times[number + 1 :])
