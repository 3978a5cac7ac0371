"""Straightness of a flow: how far its trajectories are from straight lines at constant speed.

The velocity is followed with the explicit midpoint rule. Its steps add up to exactly the
displacement of the trajectory, so the mean square of (displacement - velocity) is the variance of
the velocity over the steps: one pass, nothing stored, never below 0, of second order in the step.
"""

from collections.abc import Callable

import torch

from slimctl.models.metrics.evidence import Evidence
from slimctl.models.shapes import Float, Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""velocity(xt, t): xt of shape (B, ...) in the type of x0, t of shape (B,); returns xt's shape."""


MEASURED = 256
"""Samples of a report's straightness."""
STEPS = 16
"""Steps of each."""


def measure(evidence: Evidence) -> dict[str, float | None]:
    """S of the flow on the first noises, per dimension; None for a one-step generator."""
    sampler, seed = evidence.sampler, evidence.seed
    if sampler.solver is None:
        return {"straightness": None}
    index = torch.arange(MEASURED, device=sampler.device)
    label = sampler.labels(seed, index)

    def velocity(xt: Tensor, t: Tensor) -> Tensor:
        return sampler.flow.velocity(xt, t, label)

    x0 = sampler.flow.enter(sampler.noise(seed, index))
    each = straightness(velocity, x0, STEPS, sampler.flow.t_start, MEASURED)
    return {"straightness": float(each.mean())}


@torch.no_grad()
def straightness(
    velocity: Velocity,
    x0: Float[Tensor, " b *shape"],
    num_steps: int = 64,
    t_start: float = 0.0,
    batch_size: int = 256,
) -> Float[Tensor, " b"]:
    """S = int || (x1 - x0) - v(xt, t) ||^2 dt along each of the flow's trajectories, per dimension.

    In squared pixel units ([-1, 1]) per unit time squared, float64; 0 is straight, and then one
    Euler step is exact.

    With t_start above 0, x1 - x0 is divided by 1 - t_start and the integral is a mean over
    [t_start, 1].

    Args:
        velocity: see `Velocity`; a network in eval mode, labels bound by the caller (then with
            `batch_size` at least b).
        x0: noise.
        num_steps: steps of two evaluations; the error is of order 1 / num_steps^2.
        t_start: in [0, 1), the flow's start.
        batch_size: samples evaluated at once.

    Raises:
        ValueError: an argument outside its range, or a velocity that is NaN, infinite or of
            another shape than x.

    Source: Liu, Gong and Liu, arXiv 2209.03003, the straightness S(Z) (time as here), divided by
        the number of dimensions.
    """
    if num_steps < 1 or batch_size < 1 or len(x0) < 1 or not 0 <= t_start < 1:
        raise ValueError(
            f"num_steps {num_steps}, batch_size {batch_size}, samples {len(x0)} and t_start "
            f"{t_start}: the first three must be at least 1, t_start at least 0 and below 1"
        )
    parts = [_follow(velocity, piece, num_steps, t_start) for piece in torch.split(x0, batch_size)]
    per_sample: Tensor = torch.cat(parts)
    if not bool(torch.isfinite(per_sample).all()):
        broken = int((~torch.isfinite(per_sample)).nonzero()[0])
        raise ValueError(
            f"velocity: NaN or infinity on the trajectory of sample {broken} of {len(x0)}\n"
            "  fix: look at the network's weights; they may come from a run that diverged"
        )
    return per_sample


def _follow(
    velocity: Velocity, x0: Float[Tensor, " b *shape"], num_steps: int, t_start: float
) -> Float[Tensor, " b"]:
    """Variance over time of the velocity, per sample, as mean over dimensions."""

    def evaluate(state: Tensor, t: float) -> Tensor:
        times = torch.full((len(x0),), t, dtype=x0.dtype, device=x0.device)
        slope = velocity(state.to(x0.dtype), times)
        if slope.shape != x0.shape:
            raise ValueError(
                f"velocity: the shape is {tuple(slope.shape)} where x is {tuple(x0.shape)}\n"
                "  fix: return one number for each number of x"
            )
        return slope.double()

    step = (1.0 - t_start) / num_steps
    state = x0.double()
    mean = torch.zeros_like(state)
    scatter = torch.zeros_like(state)
    for k in range(num_steps):
        t = t_start + k * step
        middle = state + 0.5 * step * evaluate(state, t)
        slope = evaluate(middle, t + 0.5 * step)
        state = state + step * slope
        # Welford's update: a running variance without a difference of large sums.
        change = slope - mean
        mean = mean + change / (k + 1)
        scatter = scatter + change * (slope - mean)
    variance: Tensor = scatter / num_steps
    return variance.reshape(len(variance), -1).mean(dim=1)
