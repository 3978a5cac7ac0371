"""The blocks that an NCSN++ is made of: residual convolutions, self-attention, image pyramid.

The first two return (x + h) / sqrt(2), so that the variance of the activations does not grow with
depth.
"""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.layers import Resampling, enlarge, group_norm, halve, halve_inside
from slimctl.models.networks.song_unet.initialisation import (
    NEARLY_ZERO,
    conv,
    linear,
    variance_scaling_,
)
from slimctl.models.shapes import Float, Tensor

EPS = 1e-6
"""Of every GroupNorm in the network."""
QKV_SCALE = 0.1
"""Variance scale of the initial query, key and value projections."""
Resample = Literal["down", "up"]
"""What a residual block can do to the size: halve it or double it."""


def merge(x: Float[Tensor, "b c h w"], h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """(x + h) / sqrt(2), in x's memory format."""
    return (x + h).mul_(math.sqrt(0.5))


class ResidualBlock(nn.Module):
    """GN, silu, (resample), conv, + embedding, GN, silu, dropout, conv; 1x1 conv on the skip.

    The skip has its convolution only where the channels change or the block resamples.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        resample: Resample | None = None,
        resampling: Resampling = "box",
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.resample = resample
        self.resampling = resampling
        self.norm_in = group_norm(inputs, EPS)
        self.conv_in = conv(inputs, outputs, 3)
        self.shift = linear(embedding, outputs)
        self.norm_out = group_norm(outputs, EPS)
        self.conv_out = conv(outputs, outputs, 3, scale=NEARLY_ZERO)
        self.skip = conv(inputs, outputs, 1) if resample or inputs != outputs else None

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        embedding: Float[Tensor, "b e"],
        height: int = 0,
        width: int = 0,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """`height` and `width` are the output's, needed only by a block that goes up."""
        h = functional.silu(self.norm_in(x))
        if self.resample == "down":
            h, x = halve(h, self.resampling), halve(x, self.resampling)
        elif self.resample == "up":
            h = enlarge(h, height, width, self.resampling)
            x = enlarge(x, height, width, self.resampling)
        h = self.conv_in(h) + self.shift(embedding)[:, :, None, None]
        h = functional.dropout(functional.silu(self.norm_out(h)), self.dropout, self.training)
        h = self.conv_out(h)
        return merge(x if self.skip is None else self.skip(x), h)


class Projection(nn.Module):
    """`stacked` C -> C linear maps applied to each pixel, in one matrix (stacked * C, C).

    Not an `nn.Linear`, because the published code has none here: the published count of
    multiply-adds, which is over convolutions and linear layers, leaves these products out.
    """

    def __init__(self, channels: int, scale: float, stacked: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(stacked * channels, channels))
        self.bias = nn.Parameter(torch.zeros(stacked * channels))
        for weight in self.weight.chunk(stacked):
            variance_scaling_(weight, scale)

    def forward(self, pixels: Float[Tensor, "b n c"]) -> Float[Tensor, "b n stacked_c"]:
        return functional.linear(pixels, self.weight, self.bias)


class Attention(nn.Module):
    """Self-attention between all pixels, one head, scale C^-0.5, GroupNorm first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, EPS)
        self.qkv = Projection(channels, QKV_SCALE, stacked=3)
        self.out = Projection(channels, NEARLY_ZERO)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(pixels).unsqueeze(1).chunk(3, dim=-1)
        h = functional.scaled_dot_product_attention(query, key, value).squeeze(1)
        return merge(x, self.out(h).transpose(1, 2).reshape(x.shape))


class PyramidStep(nn.Module):
    """Convolves the image and halves it: what a residual encoder adds to the next level.

    The convolution runs at full size, before the filter, as published.
    """

    def __init__(self, inputs: int, outputs: int, resampling: Resampling) -> None:
        super().__init__()
        self.resampling = resampling
        self.conv = conv(inputs, outputs, 3, margin=int(resampling == "binomial"))

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return halve_inside(self.conv(image), self.resampling)
