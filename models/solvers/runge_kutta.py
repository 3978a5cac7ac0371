"""Embedded Runge-Kutta methods with a step size of its own for every sample.

Time, step size, error norm and acceptance are per sample, and a sample that has arrived leaves the
batch. So a result does not depend on the batch it was computed in (beyond the rounding of matrix
products), which a common error norm would make it do. Such a norm is an option all the same: the
published code has it, and figures made with it can be compared. The host looks at the batch once
per step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.solution import Solution

_SAFETY, _LARGEST_GROWTH, _LARGEST_SHRINK = 0.9, 10.0, 0.2
_Norm = Callable[[Tensor], Tensor]
"""Images (b, c, h, w) to one size per sample (b,)."""


def _add_up(h: Tensor, weights: Sequence[float], velocities: Sequence[Tensor]) -> Tensor:
    """H sum_j w_j v_j, each product rounded together with its addition."""
    total = weights[0] * velocities[0]
    for weight, velocity in zip(weights[1:], velocities[1:], strict=True):
        if weight != 0.0:
            total.add_(velocity, alpha=weight)
    return per_pixel(h, total) * total


def _add_up_apart(h: Tensor, weights: Sequence[float], velocities: Sequence[Tensor]) -> Tensor:
    """The same with every product rounded on its own; a single one is (h w) v."""
    step = per_pixel(h, velocities[0])
    terms = [(w, v) for w, v in zip(weights, velocities, strict=True) if w != 0.0]
    if len(terms) == 1:
        return terms[0][0] * step * terms[0][1]
    total = terms[0][0] * terms[0][1]
    for weight, velocity in terms[1:]:
        total = total + weight * velocity
    return step * total


@dataclass(frozen=True)
class Tableau:
    """An embedded pair whose last stage is the first one of the next step."""

    nodes: tuple[float, ...]
    """Times of the second and later stages, in shares of the step; the last is not among them."""
    stages: tuple[tuple[float, ...], ...]
    """Weights of the stages before, for each of the nodes."""
    weights: tuple[float, ...]
    """Weights of the end point."""
    error: tuple[float, ...]
    """The same less those of the embedded method, the velocity at the end included."""
    order: int
    """Power of the step by which its error falls, for the step control."""
    combine: Callable[[Tensor, Sequence[float], Sequence[Tensor]], Tensor]
    """Step times weighted velocities. How it rounds is kept for each method, so that what was
    computed with it stays the same to the bit."""

    @property
    def evaluations(self) -> int:
        """New evaluations of a step."""
        return len(self.nodes) + 1


DORMAND_PRINCE = Tableau(
    nodes=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    stages=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    weights=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    order=5,
    combine=_add_up,
)
"""Order 5(4). Source: Dormand and Prince, J. Comp. Appl. Math. 6 (1980)."""
BOGACKI_SHAMPINE = Tableau(
    nodes=(1 / 2, 3 / 4),
    stages=((1 / 2,), (0.0, 3 / 4)),
    weights=(2 / 9, 1 / 3, 4 / 9),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    order=3,
    combine=_add_up_apart,
)
"""Order 3(2). Source: Bogacki and Shampine, Appl. Math. Lett. 2 (1989)."""


@dataclass(frozen=True)
class FlowPoint:
    """Samples on their way; times are float64, which resolves the small steps near t = 1."""

    x: Tensor
    t: Tensor
    velocity: Tensor
    """v(x, t)."""
    label: Condition

    def keep(self, chosen: Tensor) -> "FlowPoint":
        """The samples of a mask or of numbers."""
        label = None if self.label is None else self.label[chosen]
        return FlowPoint(self.x[chosen], self.t[chosen], self.velocity[chosen], label)


def begin(flow: Flow, x0: Tensor, label: Condition, t_start: float) -> FlowPoint:
    """The first point of each sample; one evaluation."""
    t = torch.full((len(x0),), t_start, dtype=torch.float64, device=x0.device)
    return FlowPoint(x0, t, flow.velocity(x0, t.to(x0.dtype), label), label)


def take_step(
    tableau: Tableau, flow: Flow, point: FlowPoint, h: Float[Tensor, " b"]
) -> tuple[Tensor, list[Tensor]]:
    """Points a step h later, and the velocities on the way; all evaluations but the one there."""
    velocities = [point.velocity]
    for node, weights in zip(tableau.nodes, tableau.stages, strict=True):
        stage = point.x + tableau.combine(h, weights, velocities)
        t = (point.t + node * h).to(point.x.dtype)
        velocities.append(flow.velocity(stage, t, point.label))
    return point.x + tableau.combine(h, tableau.weights, velocities), velocities


def rk45(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    t_start: float,
    t_end: float,
    tolerance: float,
    max_evaluations: int,
    shared_norm: bool = False,
) -> Solution:
    """Integrates each sample by `DORMAND_PRINCE`: two evaluations to begin, six a step.

    A step is accepted if the root mean square over the pixels of
    error / (tolerance + tolerance max(|x|, |x_new|)) is below 1; with `shared_norm` over the pixels
    of all samples, which then have the same steps. The last step meets t_end exactly.

    Raises:
        FloatingPointError: samples are not finite, or have not arrived after max_evaluations.
    """
    norm = _shared_rms if shared_norm else _rms
    control = _Control(DORMAND_PRINCE, flow, t_end, tolerance, max_evaluations, norm)
    return control.solve(x0, label, t_start)


@torch.no_grad()
def rk23(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 1000,
    t_start: float | None = None,
) -> Solution:
    """Integrates each sample from t_start to 1 by `BOGACKI_SHAMPINE`: three evaluations a step.

    Steps are accepted and errors raised as by `rk45`. A t_start of None is the flow's own, which
    the noise x0 enters.
    """
    start = flow.t_start if t_start is None else t_start
    x0 = flow.enter(x0) if t_start is None else x0
    control = _Control(BOGACKI_SHAMPINE, flow, 1.0, tolerance, max_evaluations, rms)
    return control.solve(x0, label, start)


@torch.no_grad()
def trajectory(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    times: Sequence[float],
    tolerance: float,
    max_evaluations: int = 5000,
) -> tuple[list[Tensor], list[Tensor]]:
    """Points and velocities at `times`, from where the noise x0 enters the flow, by `rk45`."""

    def velocity(x: Tensor, t: float) -> Tensor:
        return flow.velocity(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device), label)

    points = [flow.enter(x0)]
    velocities = [velocity(points[0], times[0])]
    for low, high in pairwise(times):
        points.append(rk45(flow, points[-1], label, low, high, tolerance, max_evaluations).x1)
        velocities.append(velocity(points[-1], high))
    return points, velocities


@dataclass(frozen=True)
class _Active:
    """The samples still on their way. All have made the same number of evaluations."""

    rows: Tensor
    """Their places in the whole batch."""
    point: FlowPoint
    h: Tensor
    """Step to try next; float64."""
    rejected: Tensor
    """Whether the step before was rejected; the next one may then not grow."""

    def keep(self, chosen: Tensor) -> "_Active":
        return _Active(
            self.rows[chosen], self.point.keep(chosen), self.h[chosen], self.rejected[chosen]
        )


@dataclass(frozen=True)
class _Control:
    """The step control and its first step.

    Source: Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, section II.4.
    """

    tableau: Tableau
    flow: Flow
    t_end: float
    tolerance: float
    max_evaluations: int
    norm: _Norm

    def solve(self, x0: Tensor, label: Condition, t_start: float) -> Solution:
        x1, nfe = torch.empty_like(x0), torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
        point = begin(self.flow, x0, label, t_start)
        h = self._first_step(point, self.t_end - t_start)
        rows = torch.arange(len(x0), device=x0.device)
        active, evaluations = _Active(rows, point, h, torch.zeros_like(h, dtype=torch.bool)), 2
        while len(active.rows) > 0:
            if evaluations + self.tableau.evaluations > self.max_evaluations:
                raise FloatingPointError(
                    f"{len(active.rows)} of {len(x0)} samples have not arrived after {evaluations} "
                    f"evaluations, the slowest at t = {float(active.point.t.min()):g}: "
                    "raise max_evaluations or the tolerance"
                )
            before, active = active, self._step(active)
            evaluations += self.tableau.evaluations
            arrived = active.point.t >= self.t_end
            # One look at the device: the step size of a sample that is not finite is NaN.
            any_arrived, any_lost = torch.stack((arrived.any(), active.h.isnan().any())).tolist()
            if any_lost:
                lost = active.h.isnan()
                raise FloatingPointError(
                    f"{int(lost.sum())} of {len(x0)} samples are not finite after "
                    f"t = {float(before.point.t[lost].min()):g}: check the weights of the network"
                )
            if any_arrived:
                x1[active.rows[arrived]] = active.point.x[arrived]
                nfe[active.rows[arrived]] = evaluations
                active = active.keep(~arrived)
        return Solution(x1, nfe)

    def _first_step(self, point: FlowPoint, span: float) -> Tensor:
        """First steps from the size of the velocity and of its change; one evaluation."""
        x, velocity, norm = point.x, point.velocity, self.norm
        scale = self.tolerance + self.tolerance * x.abs()
        size, speed = norm(x / scale), norm(velocity / scale)
        probe = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
        probe = probe.clamp(max=span)
        t = (point.t + probe).to(x.dtype)
        ahead = self.flow.velocity(x + per_pixel(probe, x) * velocity, t, point.label)
        steepest = torch.maximum(speed, norm((ahead - velocity) / scale) / probe)
        power = 1 / self.tableau.order
        h = (0.01 / steepest) ** power
        h = torch.where(steepest <= 1e-15, (probe * 1e-3).clamp(min=1e-6), h)
        return torch.minimum(h, 100.0 * probe).clamp(max=span)

    def _step(self, active: _Active) -> _Active:
        """Every sample tries one step; those whose error is too large stay and get a smaller h."""
        point = active.point
        last = active.h >= self.t_end - point.t
        h = torch.where(last, self.t_end - point.t, active.h)
        x_new, velocities = take_step(self.tableau, self.flow, point, h)
        t_new = torch.where(last, self.t_end, point.t + h)
        velocity = self.flow.velocity(x_new, t_new.to(x_new.dtype), point.label)
        scale = self.tolerance + self.tolerance * torch.maximum(point.x.abs(), x_new.abs())
        change = self.tableau.combine(h, self.tableau.error, [*velocities, velocity])
        error = self.norm(change / scale)
        accepted = error < 1.0
        factor = (_SAFETY * error ** (-1 / self.tableau.order)).clamp(
            _LARGEST_SHRINK, _LARGEST_GROWTH
        )
        moved = accepted[:, None, None, None]
        moved_point = FlowPoint(
            torch.where(moved, x_new, point.x),
            torch.where(accepted, t_new, point.t),
            torch.where(moved, velocity, point.velocity),
            point.label,
        )
        may_grow = accepted & ~active.rejected
        h = h * torch.where(may_grow, factor, factor.clamp(max=1.0))
        return replace(active, point=moved_point, h=h, rejected=~accepted)


def per_pixel(step: Float[Tensor, " b"], x: Tensor) -> Tensor:
    """Steps in the type and shape that multiplies images."""
    return expand_time(step).to(x.dtype)


def rms(x: Tensor) -> Tensor:
    """Root mean square over the pixels of each sample, in float64 (B,)."""
    return x.flatten(1).double().square().mean(dim=1).sqrt()


def _rms(x: Tensor) -> Tensor:
    """The same with squares and mean in x's own precision."""
    return x.flatten(1).square().mean(dim=1).double().sqrt()


def _shared_rms(x: Tensor) -> Tensor:
    """Root mean square over all pixels, the same for each sample; float64."""
    return x.flatten(1).square().mean(dim=1).double().mean().sqrt().expand(len(x))
