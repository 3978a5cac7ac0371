"""Distances between two batches of images, one number per sample."""

import math
from collections.abc import Callable

from slimctl.models.flows.spec import HuberDistance, L2Distance
from slimctl.models.shapes import Float, Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two image batches (B, C, H, W) to distances (B,)."""


def distance(spec: L2Distance | HuberDistance) -> Distance:
    """The distance that `spec` describes."""
    if isinstance(spec, L2Distance):
        return squared_distance
    c = spec.c

    def huber(x: Tensor, y: Tensor) -> Tensor:
        return pseudo_huber(x, y, c)

    return huber


def squared_distance(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Mean of (x - y)^2 over channels and pixels."""
    return (x - y).square().flatten(1).mean(dim=1)


def pseudo_huber(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], c: float | None = None
) -> Float[Tensor, " b"]:
    """Distance sqrt(||x - y||^2 + c^2) - c.

    Args:
        x: images.
        y: images.
        c: turning point from quadratic to linear, > 0; None is 0.00054 sqrt(C H W).

    Source: Song and Dhariwal, arXiv 2310.14189, section 3.3.
    """
    if c is None:
        c = 0.00054 * math.sqrt(x.shape[1:].numel())
    squared = (x - y).square().flatten(1).sum(dim=1)
    # The same number as sqrt(s + c^2) - c without its cancellation where s is small.
    return squared / ((squared + c * c).sqrt() + c)
