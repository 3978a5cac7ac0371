"""EDM's deterministic sampler: Heun's method in the noise level sigma, on EDM's grid of levels.

It asks a flow for velocities only, so that it serves every flow: with sigma = (1 - t) / t and
x = (1 + sigma) xt, the denoised image is D = xt + (1 - t) v(xt, t).
"""

from itertools import pairwise

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.solution import Solution, check_finite

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""EDM's range of noise levels, which its sampler keeps to for other networks as well."""


def edm_sigmas(
    steps: int, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN, rho: float = 7.0
) -> tuple[float, ...]:
    """Noise levels sigma_0 = sigma_max > ... > sigma_(steps-1) = sigma_min > 0, then 0.

    sigma_i = (a + i / (steps - 1) (b - a))^rho with a = sigma_max^(1/rho), b = sigma_min^(1/rho).

    Raises:
        ValueError: fewer than 2 steps, or levels that do not fall.

    Source: Karras et al., arXiv 2206.00364, equation 5.
    """
    if steps < 2 or not 0.0 < sigma_min < sigma_max:
        raise ValueError(
            f"{steps} steps from sigma {sigma_max} to {sigma_min}: at least 2 steps and "
            "0 < sigma_min < sigma_max are needed"
        )
    a, b = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    levels = ((a + number / (steps - 1) * (b - a)) ** rho for number in range(steps))
    return (*levels, 0.0)


@torch.no_grad()
def edm_heun(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition = None,
    steps: int = 18,
    sigma_min: float = SIGMA_MIN,
    rho: float = 7.0,
    sigma_max: float | None = None,
) -> Solution:
    """Integrates dx/dsigma = (x - D) / sigma from sigma_max x0 to sigma = 0; 2 steps - 1 NFE.

    Args:
        flow: the velocity, put into eval mode; its t_start > 0 gives sigma_max, which is
            (1 - t_start) / t_start: 80 for EDM's.
        x0: noise of variance 1, the x0 of a pair; not yet multiplied by sigma_max.
        label: classes of a conditional flow.
        steps: at least 2; the last one, to sigma = 0, is Euler's. 18 are 35 evaluations.
        sigma_min: last level before 0.
        rho: how much shorter the steps are at small levels.
        sigma_max: first level; None = the flow's, (1 - t_start) / t_start.

    Raises:
        ValueError: the flow starts at t = 0, where sigma is infinite, or there are too few steps.
        FloatingPointError: a sample is not finite at the end.

    Source: Karras et al., arXiv 2206.00364, algorithm 1.
    """
    if sigma_max is None and flow.t_start == 0.0:
        raise ValueError("this flow starts at t = 0, where sigma is infinite: use heun instead")
    if sigma_max is None:
        sigma_max = (1.0 - flow.t_start) / flow.t_start
    sigmas = edm_sigmas(steps, sigma_max, sigma_min, rho)
    x = sigmas[0] * x0.double()
    for sigma, sigma_next in pairwise(sigmas):
        slope = _slope(flow, x, sigma, label, x0.dtype)
        predicted = x + (sigma_next - sigma) * slope
        if sigma_next > 0.0:
            slope = (slope + _slope(flow, predicted, sigma_next, label, x0.dtype)) / 2.0
            predicted = x + (sigma_next - sigma) * slope
        x = predicted
    check_finite(x, 1.0)
    nfe = torch.full((len(x),), 2 * steps - 1, device=x.device)
    return Solution(x.to(x0.dtype), nfe)


def _slope(flow: Flow, x: Tensor, sigma: float, label: Condition, dtype: torch.dtype) -> Tensor:
    """(x - D(x; sigma)) / sigma = xt - t v(xt, t), as x = (1 + sigma) xt and t (1 + sigma) = 1.

    x is kept in float64: levels from 80 to 0.002 are too far apart for sums in float32.
    """
    t = 1.0 / (1.0 + sigma)
    xt = t * x
    time = torch.full((len(x),), t, dtype=dtype, device=x.device)
    return xt - t * flow.velocity(xt.to(dtype), time, label).double()
