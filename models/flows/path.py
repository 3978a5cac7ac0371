"""The straight path from noise to image, and its constant velocity.

Convention of the whole project: t = 0 is noise x0, t = 1 is the image x1. The SlimFlow and
rectified-flow papers differ among themselves; every formula here is in this convention.
"""

import math

from slimctl.models.shapes import Float, Tensor


def interpolate(
    x0: Float[Tensor, "b c h w"], x1: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """Point xt = (1 - t) x0 + t x1 on the path, exact at both ends.

    Source: Liu et al., arXiv 2209.03003, equation 1.
    """
    t = expand_time(t)
    return (1.0 - t) * x0 + t * x1


def path_velocity(
    x0: Float[Tensor, "b c h w"], x1: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Velocity dxt/dt = x1 - x0, the same at every t."""
    return x1 - x0


def expand_time(t: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    """Times in the shape that multiplies a batch of images."""
    return t[:, None, None, None]


def annealed_noise(
    x0: Float[Tensor, "b c h w"], fresh: Float[Tensor, "b c h w"], beta: float
) -> Float[Tensor, "b c h w"]:
    """Noise sqrt(1 - beta^2) x0 + beta fresh: unit variance for every beta.

    beta = 0 returns x0 itself, 1 is all fresh.

    Raises:
        ValueError: beta outside [0, 1].

    Source: SlimFlow, arXiv 2407.12718, equation 9.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta}: it must lie in [0, 1]")
    if beta == 0.0:
        return x0
    return math.sqrt(1.0 - beta * beta) * x0 + beta * fresh
