"""Layers that several network families share.

Halving averages 2 x 2 pixels, and at an odd border only the pixels that exist, so that any size
works and even sizes are exactly the published ones.
"""

from torch import nn
from torch.nn import functional

from models.shapes import Float, Tensor


def group_count(channels: int) -> int:
    """Groups of a GroupNorm: the largest divisor of `channels` up to min(channels // 4, 32)."""
    most = max(1, min(channels // 4, 32))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with scale and shift and `group_count(channels)` groups."""
    return nn.GroupNorm(group_count(channels), channels, eps=eps)


def halve(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Mean of 2 x 2 pixels: height and width become ceil(h / 2) and ceil(w / 2)."""
    return functional.avg_pool2d(x, 2, ceil_mode=True)


def enlarge(x: Float[Tensor, "b c h2 w2"], height: int, width: int) -> Float[Tensor, "b c h w"]:
    """Undoes the size of `halve`: repeats each pixel 2 x 2, without the excess of an odd size."""
    return functional.interpolate(x, size=(height, width), mode="nearest")
