"""Annealed noise: from fresh noise to the noise that a pair was made from.

The share of fresh noise is one scalar for the batch; its schedules are in `models/flows/spec.py`.
"""

import math

from slimctl.models.shapes import Float, Tensor


def annealed_noise(
    x0: Float[Tensor, "b c h w"], fresh: Float[Tensor, "b c h w"], beta: float
) -> Float[Tensor, "b c h w"]:
    """Noise sqrt(1 - beta^2) x0 + beta fresh: unit variance for every beta.

    Args:
        x0: noise of the pairs.
        fresh: independent standard normal noise.
        beta: share of fresh noise in [0, 1]: 0 returns x0 itself, 1 is all fresh.

    Raises:
        ValueError: beta outside [0, 1].

    Source: SlimFlow, arXiv 2407.12718, equation 9.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is {beta}: it must lie in [0, 1]")
    if beta == 0.0:
        return x0
    return math.sqrt(1.0 - beta * beta) * x0 + beta * fresh
