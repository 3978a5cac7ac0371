"""Where the exact solution of a flow is at every time, for each of some noises.

Solved from one even time to the next, and between them a cubic through points and velocities.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.solvers.base import even_times, solve
from slimctl.models.solvers.spec import RK45Spec

MAX_EVALUATIONS = 5000
"""Of one stretch, after which a flow is given up."""


@dataclass(frozen=True)
class ExactPaths:
    """Points and velocities of the exact solution at even times."""

    times: tuple[float, ...]
    """Times of the points, from the flow's own start to 1."""
    points: Float[Tensor, "n m c h w"]
    velocities: Float[Tensor, "n m c h w"]

    def at(self, rows: Int[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """The points of some noises at times of their own.

        Args:
            rows: numbers of the noises.
            t: their times, in the range of `times`.
        """
        first, step = self.times[0], self.times[1] - self.times[0]
        place = (t - first) / step
        before = place.floor().long().clamp(0, len(self.times) - 2)
        s = (place - before).to(self.points.dtype)[:, None, None, None]
        x, x_next = self.points[rows, before], self.points[rows, before + 1]
        v, v_next = self.velocities[rows, before] * step, self.velocities[rows, before + 1] * step
        rise = x_next - x
        return x + s * (v + s * (3.0 * rise - 2.0 * v - v_next + s * (v + v_next - 2.0 * rise)))

    def deviation(
        self, rows: Int[Tensor, " b"], t: Float[Tensor, " b"], x: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Points at times of their own, less the exact ones."""
        return x - self.at(rows, t)


@torch.no_grad()
def exact_paths(
    flow: Flow,
    x0: Float[Tensor, "n c h w"],
    label: Int[Tensor, " n"] | None,
    tolerance: float,
    stretches: int,
) -> ExactPaths:
    """Follows noises by rk45.

    Args:
        flow: in eval mode.
        x0: noises of unit variance.
        label: their classes.
        tolerance: of rk45.
        stretches: even stretches of time that it is solved in, >= 1.
    """
    times = even_times(flow.t_start, 1.0, stretches)
    spec = RK45Spec(tolerance=tolerance, max_evaluations=MAX_EVALUATIONS)
    x = flow.enter(x0)
    points, velocities = [x], [_velocity(flow, x, times[0], label)]
    for start, end in pairwise(times):
        x = solve(spec, flow, x, label, t_start=start, t_end=end).x1
        points.append(x)
        velocities.append(_velocity(flow, x, end, label))
    return ExactPaths(times, torch.stack(points, dim=1), torch.stack(velocities, dim=1))


def _velocity(flow: Flow, x: Tensor, t: float, label: Tensor | None) -> Tensor:
    return flow.velocity(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), label)
