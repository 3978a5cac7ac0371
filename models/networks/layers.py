"""Layers that several network families share.

Halving averages 2 x 2 pixels, and at an odd border only the pixels that exist, so that any size
works and even sizes are exactly the published ones.
"""

from abc import ABC
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.shapes import Float, Tensor


def group_count(channels: int) -> int:
    """Groups of a GroupNorm: the largest divisor of `channels` up to min(channels // 4, 32)."""
    most = max(1, min(channels // 4, 32))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """GroupNorm with scale and shift and `group_count(channels)` groups."""
    return nn.GroupNorm(group_count(channels), channels, eps=eps)


Resampling = Literal["box", "binomial"]
"""Filter of halving and doubling in each direction: [1, 1] or [1, 3, 3, 1]."""


def halve(
    x: Float[Tensor, "b c h w"], resampling: Resampling = "box"
) -> Float[Tensor, "b c h2 w2"]:
    """Mean of 2 x 2 pixels: height and width become ceil(h / 2) and ceil(w / 2).

    The binomial filter averages 4 x 4 pixels with weights [1, 3, 3, 1] / 8 in each direction, the
    image continued by zeros.
    """
    if resampling == "box":
        return functional.avg_pool2d(x, 2, ceil_mode=True)
    return halve_inside(functional.pad(x, (1, 1, 1, 1)), "binomial")


def halve_inside(x: Float[Tensor, "b c h w"], resampling: Resampling) -> Float[Tensor, "b c h2 w2"]:
    """`halve` of an image that has one pixel more on each side where the filter needs it."""
    if resampling == "box":
        return halve(x)
    height, width = x.shape[2:]
    x = functional.pad(x, (0, width % 2, 0, height % 2))
    return functional.conv2d(x, _binomial(x) / 64, stride=2, groups=x.shape[1])


def enlarge(
    x: Float[Tensor, "b c h2 w2"], height: int, width: int, resampling: Resampling = "box"
) -> Float[Tensor, "b c h w"]:
    """Undoes the size of `halve`: repeats each pixel 2 x 2, without the excess of an odd size.

    The binomial filter mixes each pixel with its neighbours 3 : 1 in each direction.
    """
    if resampling == "box":
        return functional.interpolate(x, size=(height, width), mode="nearest")
    x = functional.conv_transpose2d(x, _binomial(x) / 16, stride=2, padding=1, groups=x.shape[1])
    return x[..., :height, :width]


def _binomial(x: Tensor) -> Tensor:
    """The outer product of [1, 3, 3, 1] with itself, once per channel; exact in any precision."""
    line = x.new_tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(line, line).expand(x.shape[1], 1, 4, 4)


class FixedFilter(nn.Module, ABC):
    """A resampling that the published code computes as a convolution with given weights.

    Ours does not, but is counted like it, so that a network has its published multiply-adds.
    """

    taps: int
    """Multiply-adds of one output value."""


class Halve(FixedFilter):
    """`halve`, published as a depthwise convolution with four equal weights."""

    taps = 4

    def forward(
        self, x: Float[Tensor, "b c h w"], height: int = 0, width: int = 0
    ) -> Float[Tensor, "b c h2 w2"]:
        """Takes a size, as `Enlarge` does, and needs none."""
        return halve(x)


class Enlarge(FixedFilter):
    """`enlarge`, published as a transposed depthwise convolution with weights 1."""

    taps = 1

    def forward(
        self, x: Float[Tensor, "b c h2 w2"], height: int, width: int
    ) -> Float[Tensor, "b c h w"]:
        """Makes the given size of about half of it."""
        return enlarge(x, height, width)


def label_mistake(classes: int) -> str:
    """What to say where a label is missing (classes > 0) or there is one too many (classes = 0)."""
    if classes == 0:
        return "this network has no classes but got a label\n  fix: call network(xt, t, None)"
    return (
        f"this network is conditional on {classes} classes but got no label"
        f"\n  fix: call network(xt, t, label) with int64 labels of 0..{classes - 1}, shape (B,)"
    )
