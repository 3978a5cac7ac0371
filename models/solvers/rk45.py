"""Dormand and Prince's Runge-Kutta method of order 5(4), every sample with steps of its own.

Time, step size, error norm and acceptance are per sample, and a sample that has arrived leaves the
batch. So a result does not depend on the batch it was computed in (beyond the rounding of matrix
products), which a common error norm would make it do. Such a norm is an option all the same: the
published code has it, and figures made with it can be compared. The host looks at the batch once
per step of six evaluations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.solvers.solution import Solution

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH_ORDER = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Fifth minus fourth order weights; the seventh velocity is the next step's first."""
_NEW_EVALUATIONS = 6

_Norm = Callable[[Tensor], Tensor]
"""Images (b, c, h, w) to one size per sample (b,)."""

_SAFETY = 0.9
_LARGEST_GROWTH = 10.0
_LARGEST_SHRINK = 0.2


@dataclass(frozen=True)
class _Active:
    """The samples still on their way. All have made the same number of evaluations."""

    rows: Tensor
    """Their places in the whole batch."""
    x: Tensor
    t: Tensor
    """Float64: a step near t = 1 may be smaller than float32 resolves."""
    h: Tensor
    """Step to try next; float64."""
    velocity: Tensor
    """v(x, t), the last stage of the step before."""
    rejected: Tensor
    """Whether the step before was rejected; the next one may then not grow."""
    label: Tensor | None

    def keep(self, chosen: Tensor) -> "_Active":
        return _Active(
            rows=self.rows[chosen],
            x=self.x[chosen],
            t=self.t[chosen],
            h=self.h[chosen],
            velocity=self.velocity[chosen],
            rejected=self.rejected[chosen],
            label=None if self.label is None else self.label[chosen],
        )


def rk45(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Int[Tensor, " b"] | None,
    t_start: float,
    t_end: float,
    tolerance: float,
    max_evaluations: int,
    shared_norm: bool = False,
) -> Solution:
    """Integrates each sample with its own steps: two evaluations to begin, six a step.

    A step is accepted if the root mean square over the pixels of
    error / (tolerance + tolerance max(|x|, |x_new|)) is below 1.

    Args:
        flow: the velocity.
        x0: points at t_start.
        label: classes of a conditional flow.
        t_start: time of x0.
        t_end: end time; the last step meets it exactly.
        tolerance: absolute and relative error per step.
        max_evaluations: evaluations per sample after which to give up.
        shared_norm: take the root mean square over the pixels of all samples, which then have the
            same steps.

    Raises:
        FloatingPointError: samples are not finite, or have not arrived after max_evaluations.

    Source: Dormand and Prince, J. Comp. Appl. Math. 6 (1980); step control and first step after
    Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations I, section II.4.
    """
    x1, nfe = torch.empty_like(x0), torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
    norm = _shared_rms if shared_norm else _rms
    active, evaluations = _begin(flow, x0, label, t_start, t_end, tolerance, norm), 2
    while len(active.rows) > 0:
        if evaluations + _NEW_EVALUATIONS > max_evaluations:
            raise FloatingPointError(
                f"{len(active.rows)} of {len(x0)} samples have not arrived after {evaluations} "
                f"evaluations, the slowest at t = {float(active.t.min()):g}: "
                "raise max_evaluations or the tolerance"
            )
        before, active = active, _step(flow, active, t_end, tolerance, norm)
        evaluations += _NEW_EVALUATIONS
        arrived = active.t >= t_end
        # One look at the device: the step size of a sample that is not finite is NaN.
        any_arrived, any_lost = torch.stack((arrived.any(), active.h.isnan().any())).tolist()
        if any_lost:
            raise _lost(before, active, len(x0))
        if any_arrived:
            x1[active.rows[arrived]] = active.x[arrived]
            nfe[active.rows[arrived]] = evaluations
            active = active.keep(~arrived)
    return Solution(x1, nfe)


def _begin(
    flow: Flow,
    x0: Tensor,
    label: Tensor | None,
    t_start: float,
    t_end: float,
    tolerance: float,
    norm: _Norm,
) -> _Active:
    """First velocities, and first steps from the size of the velocity and of its change."""
    t = torch.full((len(x0),), t_start, dtype=torch.float64, device=x0.device)
    velocity = flow.velocity(x0, t.to(x0.dtype), label)
    scale = tolerance + tolerance * x0.abs()
    size, speed = norm(x0 / scale), norm(velocity / scale)
    probe = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
    probe = probe.clamp(max=t_end - t_start)
    ahead = flow.velocity(x0 + _per_pixel(probe, x0) * velocity, (t + probe).to(x0.dtype), label)
    bend = norm((ahead - velocity) / scale) / probe
    steepest = torch.maximum(speed, bend)
    h = torch.where(steepest <= 1e-15, (probe * 1e-3).clamp(min=1e-6), (0.01 / steepest) ** 0.2)
    h = torch.minimum(h, 100.0 * probe).clamp(max=t_end - t_start)
    rejected = torch.zeros_like(t, dtype=torch.bool)
    return _Active(torch.arange(len(x0), device=x0.device), x0, t, h, velocity, rejected, label)


def _step(flow: Flow, active: _Active, t_end: float, tolerance: float, norm: _Norm) -> _Active:
    """Every sample tries one step; those whose error is too large stay and get a smaller h."""
    x, label = active.x, active.label
    last = active.h >= t_end - active.t
    h = torch.where(last, t_end - active.t, active.h)
    h_pixel = _per_pixel(h, x)
    velocities = [active.velocity]
    for node, weights in zip(_NODES, _STAGES, strict=True):
        point = x + h_pixel * _weighted_sum(weights, velocities)
        velocities.append(flow.velocity(point, (active.t + node * h).to(x.dtype), label))
    x_new = x + h_pixel * _weighted_sum(_FIFTH_ORDER, velocities)
    t_new = torch.where(last, t_end, active.t + h)
    velocities.append(flow.velocity(x_new, t_new.to(x.dtype), label))
    scale = tolerance + tolerance * torch.maximum(x.abs(), x_new.abs())
    error = norm(h_pixel * _weighted_sum(_ERROR, velocities) / scale)
    accepted = error < 1.0
    factor = (_SAFETY * error**-0.2).clamp(_LARGEST_SHRINK, _LARGEST_GROWTH)
    moved = accepted[:, None, None, None]
    may_grow = accepted & ~active.rejected
    return replace(
        active,
        x=torch.where(moved, x_new, x),
        t=torch.where(accepted, t_new, active.t),
        h=h * torch.where(may_grow, factor, factor.clamp(max=1.0)),
        velocity=torch.where(moved, velocities[-1], active.velocity),
        rejected=~accepted,
    )


def _weighted_sum(weights: Sequence[float], velocities: Sequence[Tensor]) -> Tensor:
    total = weights[0] * velocities[0]
    for weight, velocity in zip(weights[1:], velocities[1:], strict=True):
        if weight != 0.0:
            total.add_(velocity, alpha=weight)
    return total


def _per_pixel(step: Tensor, x: Tensor) -> Tensor:
    """Steps (b,) in the type and shape that multiplies images."""
    return expand_time(step).to(x.dtype)


def _rms(x: Tensor) -> Tensor:
    """Root mean square over the pixels of each sample; float64."""
    return x.flatten(1).square().mean(dim=1).double().sqrt()


def _shared_rms(x: Tensor) -> Tensor:
    """Root mean square over all pixels, the same for each sample; float64."""
    return x.flatten(1).square().mean(dim=1).double().mean().sqrt().expand(len(x))


def _lost(before: _Active, after: _Active, count: int) -> FloatingPointError:
    lost = after.h.isnan()
    return FloatingPointError(
        f"{int(lost.sum())} of {count} samples are not finite after "
        f"t = {float(before.t[lost].min()):g}: check the weights of the network"
    )
