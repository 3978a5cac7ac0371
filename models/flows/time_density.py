"""Flow times for training, by the inverse of the cumulative density: time = quantile(uniform).

So a training time is a function of one uniform number, whoever drew it.
"""

import math

import torch

from slimctl.models.flows.spec import KarrasTime, LogNormalTime, UniformTime, UShapedTime
from slimctl.models.shapes import Float, Tensor

_SMALLEST, _LARGEST = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
"""Seventh roots of EDM's noise levels."""
Density = UniformTime | UShapedTime | KarrasTime | LogNormalTime


def quantile(density: Density, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Flow time below which a share `u` of the density lies; u and the result in [0, 1]."""
    if isinstance(density, UniformTime):
        return density.low + (density.high - density.low) * u
    if isinstance(density, KarrasTime):
        share = density.high - (density.high - density.low) * u
        sigma: Tensor = (_SMALLEST + share * (_LARGEST - _SMALLEST)) ** 7
        return 1.0 / (1.0 + sigma)
    if isinstance(density, LogNormalTime):
        logit: Tensor = density.std * torch.special.ndtri(u) - density.mean
        return logit.sigmoid()
    return _u_shaped_quantile(density.a, u)


def whole_range(density: Density) -> Density:
    """The same density over all the times that it can have."""
    if isinstance(density, (UShapedTime, LogNormalTime)):
        return density
    return density.model_copy(update={"low": 0.0, "high": 1.0})


def _u_shaped_quantile(a: float, u: Tensor) -> Tensor:
    """Inverse of F(t) = (1 + sinh(a (t - 1/2)) / sinh(a / 2)) / 2.

    F is the integral of exp(a t) + exp(a (1 - t)) = 2 exp(a / 2) cosh(a (t - 1/2)), normalised.
    """
    t = 0.5 + ((2.0 * u - 1.0) * math.sinh(a / 2.0)).asinh() / a
    return t.clamp(0.0, 1.0)  # rounding may leave the interval by one unit
