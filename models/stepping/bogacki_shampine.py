"""Bogacki and Shampine's Runge-Kutta method of order 3(2), every sample with steps of its own.

The base step of the flow problem, and a solver that controls its steps by the error estimate.
"""

from dataclasses import dataclass

import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.solvers.solution import Solution

_THIRD_ORDER = (2 / 9, 1 / 3, 4 / 9)
_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)
"""Third minus second order weights; the fourth velocity is the next step's first."""
_SAFETY, _GROWTH, _SHRINK = 0.9, 10.0, 0.2
NEW_EVALUATIONS = 3


@dataclass(frozen=True)
class FlowPoint:
    """Samples on their way; times are float64."""

    x: Tensor
    t: Tensor
    velocity: Tensor
    """v(x, t)."""
    label: Tensor | None

    def keep(self, chosen: Tensor) -> "FlowPoint":
        """The samples of a mask or of numbers."""
        label = None if self.label is None else self.label[chosen]
        return FlowPoint(self.x[chosen], self.t[chosen], self.velocity[chosen], label)


def begin(flow: Flow, x0: Tensor, label: Tensor | None, t_start: float) -> FlowPoint:
    """The first point of each sample; one evaluation."""
    t = torch.full((len(x0),), t_start, dtype=torch.float64, device=x0.device)
    return FlowPoint(x0, t, flow.velocity(x0, t.to(x0.dtype), label), label)


def third_order(
    flow: Flow, point: FlowPoint, h: Float[Tensor, " b"]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Points a step h later, and the three velocities on the way; two new evaluations.

    Source: Bogacki and Shampine, Appl. Math. Lett. 2 (1989).
    """
    step, dtype = _per_pixel(h, point.x), point.x.dtype
    first = point.velocity
    middle = point.x + 0.5 * step * first
    second = flow.velocity(middle, (point.t + 0.5 * h).to(dtype), point.label)
    later = point.x + 0.75 * step * second
    third = flow.velocity(later, (point.t + 0.75 * h).to(dtype), point.label)
    total = sum(w * v for w, v in zip(_THIRD_ORDER, (first, second, third), strict=True))
    return point.x + step * total, (first, second, third)


def local_error(h: Float[Tensor, " b"], velocities: tuple[Tensor, ...]) -> Tensor:
    """Third minus second order result of a step, from its four velocities; an image."""
    total = sum(w * v for w, v in zip(_ERROR, velocities, strict=True))
    assert isinstance(total, Tensor)
    return _per_pixel(h, total) * total


@torch.no_grad()
def rk23(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Int[Tensor, " b"] | None = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 1000,
    t_start: float | None = None,
) -> Solution:
    """Integrates each sample from t_start to 1: two evaluations to begin, three a step.

    The steps are controlled as those of `rk45`: a step is accepted if the root mean square over the
    pixels of error / (tolerance + tolerance max(|x|, |x_new|)) is below 1.

    Raises:
        FloatingPointError: samples are not finite, or have not arrived after max_evaluations.

    Source: step control and first step after Hairer, Nørsett and Wanner, Solving Ordinary
    Differential Equations I, section II.4.
    """
    start = flow.t_start if t_start is None else t_start
    point = begin(flow, flow.enter(x0) if t_start is None else x0, label, start)
    h = _first_step(flow, point, 1.0 - start, tolerance)
    x1, nfe = torch.empty_like(x0), torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
    rows, evaluations = torch.arange(len(x0), device=x0.device), 2
    rejected = torch.zeros_like(h, dtype=torch.bool)
    while len(rows) > 0:
        if evaluations + NEW_EVALUATIONS > max_evaluations or bool(h.isnan().any()):
            raise FloatingPointError(
                f"{len(rows)} of {len(x0)} samples have not arrived after {evaluations} "
                f"evaluations at t = {float(point.t.min()):g}, or are not finite"
            )
        point, h, rejected = _controlled(flow, point, h, rejected, tolerance)
        evaluations += NEW_EVALUATIONS
        arrived = point.t >= 1.0
        x1[rows[arrived]], nfe[rows[arrived]] = point.x[arrived], evaluations
        point, h, rejected = point.keep(~arrived), h[~arrived], rejected[~arrived]
        rows = rows[~arrived]
    return Solution(x1, nfe)


def _first_step(flow: Flow, point: FlowPoint, span: float, tolerance: float) -> Tensor:
    """First steps from the size of the velocity and of its change; one evaluation."""
    scale = tolerance + tolerance * point.x.abs()
    size, speed = rms(point.x / scale), rms(point.velocity / scale)
    probe = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp(max=span)
    x = point.x + _per_pixel(probe, point.x) * point.velocity
    ahead = flow.velocity(x, (point.t + probe).to(x.dtype), point.label)
    steepest = torch.maximum(speed, rms((ahead - point.velocity) / scale) / probe)
    h = torch.where(steepest <= 1e-15, (probe * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** (1 / 3))
    return torch.minimum(h, 100.0 * probe).clamp(max=span)


def _controlled(
    flow: Flow, point: FlowPoint, h: Tensor, rejected: Tensor, tolerance: float
) -> tuple[FlowPoint, Tensor, Tensor]:
    """Every sample tries one step; those whose error is too large stay and get a smaller h."""
    last = h >= 1.0 - point.t
    h = torch.where(last, 1.0 - point.t, h)
    x_new, velocities = third_order(flow, point, h)
    t_new = torch.where(last, 1.0, point.t + h)
    velocity = flow.velocity(x_new, t_new.to(x_new.dtype), point.label)
    scale = tolerance + tolerance * torch.maximum(point.x.abs(), x_new.abs())
    error = rms(local_error(h, (*velocities, velocity)) / scale)
    accepted = error < 1.0
    factor = (_SAFETY * error ** (-1 / 3)).clamp(_SHRINK, _GROWTH)
    moved = accepted[:, None, None, None]
    moved_point = FlowPoint(
        torch.where(moved, x_new, point.x),
        torch.where(accepted, t_new, point.t),
        torch.where(moved, velocity, point.velocity),
        point.label,
    )
    h = h * torch.where(accepted & ~rejected, factor, factor.clamp(max=1.0))
    return moved_point, h, ~accepted


def _per_pixel(step: Tensor, x: Tensor) -> Tensor:
    return expand_time(step).to(x.dtype)


def rms(x: Tensor) -> Tensor:
    """Root mean square over the pixels of each sample; float64 (B,)."""
    return x.flatten(1).double().square().mean(dim=1).sqrt()
