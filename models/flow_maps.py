"""Losses of networks that cross a part of a flow at once: mean velocities and consistency.

Times run as everywhere: a step leads from t to `end` >= t, towards the image at 1.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from slimctl.models.flows.path import expand_time
from slimctl.models.losses import Distance
from slimctl.models.shapes import Float, Tensor

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`mean_velocity(xt, t, end)`."""
Derivative = Literal["jvp", "finite_difference"]
STEP = 1e-4
"""Of a finite difference, in time: a tenth of the shortest wave of 999 t, and in float32 rounding
is a thousandth of the result."""


@torch.no_grad()
def along_the_flow(
    mean_velocity: MeanVelocity,
    xt: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    end: Float[Tensor, " b"],
    tangent: Float[Tensor, "b c h w"],
    how: Derivative = "jvp",
) -> Float[Tensor, "b c h w"]:
    """Total derivative du/dt = tangent . du/dx + du/dt at a fixed `end`; carries no gradient.

    Args:
        mean_velocity: u(xt, t, end); bare, since a derivative cannot go through the wrapper that
            several workers train behind.
        xt: points.
        t: times.
        end: ends of the steps.
        tangent: dx/dt at the points.
        how: exactly, by forward differentiation, or by a central difference of two evaluations.
    """
    if how == "finite_difference":
        step = expand_time(torch.full_like(t, STEP)) * tangent
        later = mean_velocity(xt + step, t + STEP, end)
        return (later - mean_velocity(xt - step, t - STEP, end)) / (2.0 * STEP)
    with sdpa_kernel(SDPBackend.MATH):  # the fast kernels of attention have no such derivative
        made = torch.func.jvp(
            lambda x, time: mean_velocity(x, time, end), (xt, t), (tangent, torch.ones_like(t))
        )
    derivative: Tensor = made[1]
    return derivative.detach()


def mean_velocity_error(
    u: Float[Tensor, "b c h w"],
    derivative: Float[Tensor, "b c h w"],
    velocity: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    end: Float[Tensor, " b"],
    power: float,
    offset: float,
) -> Float[Tensor, " b"]:
    """|u - (end - t) sg(du/dt) - v|^2 over sg(|.|^2 + offset)^power, norms over all pixels.

    The mean velocity of the exact flow makes it 0: u = v + (end - t) du/dt. `power` 0 is the plain
    squared error; above it weighs large errors down, which biases skewed ones.

    Source: Geng et al., arXiv 2505.13447, equations 6 to 11 and 22, and as a regression on v
    arXiv 2512.02012 (improved mean flows); the papers' time runs the other way.
    """
    residual = u - expand_time(end - t) * derivative.detach() - velocity
    squared = residual.square().flatten(1).sum(dim=1)
    weight: Tensor = (squared.detach() + offset) ** -power
    return weight * squared


def consistency_end(t: Float[Tensor, " b"], stage: int, base: float = 2.0) -> Float[Tensor, " b"]:
    """Time `end` that a point at t is compared with; 1 where the rule leaves the noise.

    sigma_end = sigma (1 - base^-(stage + 1) (1 + 8 sigmoid(-sigma))), sigma = (1 - t) / t.

    Source: Geng et al. (ECT), arXiv 2406.14548, section 3.3 and its code.
    """
    sigma = (1.0 - t) / t
    kept: Tensor = 1.0 - base ** -(stage + 1.0) * (1.0 + 8.0 * (-sigma).sigmoid())
    left = (sigma * kept).clamp_min(0.0)
    return (1.0 + left).reciprocal()


def consistency_error(
    made: Float[Tensor, "b c h w"],
    wanted: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    end: Float[Tensor, " b"],
    distance: Distance,
) -> Float[Tensor, " b"]:
    """D(f(xt, t), sg f(x_end, end)) / (sigma_t - sigma_end) with f = xt + (1 - t) v(xt, t).

    Args:
        made: f(xt, t), the image that the network expects behind a point.
        wanted: f(x_end, end) at a point on the same line, or one step of a teacher away.
        t: times of the first points, in (0, 1).
        end: those of the second ones, above t.
        distance: D.

    Source: Song et al., arXiv 2303.01469, equations 7 and 10; the weight of arXiv 2406.14548.
    """
    gap = 1.0 / t - 1.0 / end
    return distance(made, wanted.detach()) / gap
