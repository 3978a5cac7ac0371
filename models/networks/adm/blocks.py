"""The block that an ADM network is made of, with its attention inside it.

Layers whose output is added to something start at 0, as published, so that a fresh block is the
identity; the others have torch's own initial weights, which are the published ones.
"""

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.layers import Enlarge, Halve, group_norm
from slimctl.models.shapes import Float, Tensor

EPS = 1e-5
"""Of every GroupNorm in the network."""


def head_count(channels: int, head_channels: int) -> int:
    """Heads of attention: the largest divisor of `channels` up to channels // head_channels."""
    most = channels // head_channels
    return next((heads for heads in range(most, 0, -1) if channels % heads == 0), 0)


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with weights and bias 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Attention(nn.Module):
    """x + projected self-attention between all pixels, GroupNorm first, scale d^-0.5 per head.

    The projections are linear layers over pixels: the same numbers as 1x1 convolutions, without
    moving the pixels. The softmax is in float32 at every precision, inside torch's kernels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels, EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        pixels = self.norm(x).flatten(2).transpose(1, 2)
        stacked = self.qkv(pixels).unflatten(2, (3, self.heads, -1))
        query, key, value = stacked.permute(2, 0, 3, 1, 4)
        h = functional.scaled_dot_product_attention(query, key, value)
        change: Tensor = self.out(h.transpose(1, 2).flatten(2))
        return x + change.transpose(1, 2).reshape(x.shape)


class ResidualBlock(nn.Module):
    """GN, silu, (resample), conv, GN times (scale + 1) plus shift, silu, dropout, conv; attention.

    The skip is resampled alongside, and has a 1x1 convolution only where the channels change.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        heads: int = 0,
        resample: Halve | Enlarge | None = None,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.resample = resample
        self.norm_in = group_norm(inputs, EPS)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * outputs)
        self.norm_out = group_norm(outputs, EPS)
        self.conv_out = zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        self.attention = Attention(outputs, heads) if heads else None

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        embedding: Float[Tensor, "b e"],
        height: int = 0,
        width: int = 0,
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """`height` and `width` are the output's, needed only by a block that enlarges."""
        h: Tensor = functional.silu(self.norm_in(x))
        if self.resample is not None:
            h, x = self.resample(h, height, width), self.resample(x, height, width)
        h = self.conv_in(h)
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(torch.addcmul(shift, self.norm_out(h), scale + 1))
        h = self.conv_out(functional.dropout(h, self.dropout, self.training))
        h = h + (x if self.skip is None else self.skip(x))
        if self.attention is not None:
            h = self.attention(h)
        return h
