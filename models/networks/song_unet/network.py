"""NCSN++: a U-Net whose skips are the stem and every block and down-block output.

Each way down and up is a list of levels in the order in which they run, and a level owns the
block that leads to the next one, so that the layout reads like the published description.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.fused_norm import norm, norm_silu
from slimctl.models.networks.layers import (
    Resampling,
    enlarge,
    group_norm,
    halve,
    halve_inside,
    label_mistake,
)
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import label_rows, level_heights
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape

NEARLY_ZERO = 1e-10


def variance_scaling_(weight: Tensor, scale: float = 1.0) -> None:
    """Fills `weight` with U(-b, b), b^2 = 6 scale / (fan_in + fan_out).

    At scale 1 that is Xavier's rule, whose gain is the square root of the scale.
    """
    nn.init.xavier_uniform_(weight, gain=math.sqrt(scale))


def conv(inputs: int, outputs: int, kernel: int, scale: float = 1.0, margin: int = 0) -> nn.Conv2d:
    """Convolution that enlarges height and width by 2 * margin pixels; `kernel` is odd."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 + margin)
    _initialise(layer, scale)
    return layer


def linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Linear layer at scale 1."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    _initialise(layer, 1.0)
    return layer


def class_embedding(classes: int, width: int) -> nn.Embedding:
    """A linear layer without bias on one-hot labels, as a look-up."""
    layer = nn.Embedding(classes, width)
    variance_scaling_(layer.weight)
    return layer


def _initialise(layer: nn.Conv2d | nn.Linear, scale: float) -> None:
    variance_scaling_(layer.weight, scale)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


FOURIER_SCALE = 16.0
"""Standard deviation of random frequencies, in turns per unit of time."""


def sinusoids(time: Float[Tensor, " b"], pairs: int) -> Float[Tensor, "b two_pairs"]:
    """Sine then cosine of time * f_i, f_i = exp(-ln(10000) i / (pairs - 1)), i = 0..pairs-1.

    The frequencies are computed at each call and are no buffer: a network cast to bfloat16, or
    made on the meta device and filled from a file, then still has exact ones.
    """
    index = torch.arange(pairs, dtype=torch.float32, device=time.device)
    angle = time[:, None] * torch.exp(index * (-math.log(10000) / (pairs - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Fourier(nn.Module):
    """Sine then cosine of 2 pi f_i time at fixed random frequencies f_i.

    The frequencies are stored with the weights. Casting the network rounds them, which bfloat16 is
    too coarse for: use autocast.
    """

    def __init__(self, pairs: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", FOURIER_SCALE * torch.randn(pairs))

    def forward(self, time: Float[Tensor, " b"]) -> Float[Tensor, "b two_pairs"]:
        angle = time[:, None] * (2 * math.pi * self.frequencies)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Embedding(nn.Module):
    """silu of the embedded time and, for a conditional network, class.

    A class is a linear layer on the one-hot label, as a look-up: without bias where it is added to
    the embedding, with a bias and times sqrt(classes) where it is added to the features.
    """

    def __init__(self, spec: SongUNetSpec, classes: int) -> None:
        super().__init__()
        width = spec.embedding_multiplier * spec.channels
        self.time_scale = spec.time_scale
        self.classes = classes
        self.pairs = spec.feature_multiplier * spec.channels // 2
        early = spec.label_entry == "features"
        self.fourier = Fourier(self.pairs) if spec.embedding == "fourier" else None
        self.time_in = linear(2 * self.pairs, width)
        self.time_out = linear(width, width)
        self.label = class_embedding(classes, width) if classes and not early else None
        self.label_in = linear(classes, 2 * self.pairs) if classes and early else None
        self.augment = linear(spec.augment, 2 * self.pairs, bias=False) if spec.augment else None

    def forward(
        self, t: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b width"]:
        """Embeds t (times `time_scale`) and label (0..classes-1, or None)."""
        if (label is None) != (self.classes == 0):
            raise ValueError(label_mistake(self.classes))
        features = self._features(self.time_scale * t, label).to(self.time_in.weight.dtype)
        vector: Tensor = self.time_out(functional.silu(self.time_in(features)))
        if self.label is not None:
            vector = vector + self.label(label)
        return functional.silu(vector)

    def _features(self, time: Tensor, label: Tensor | None) -> Tensor:
        if self.fourier is not None:
            features: Tensor = self.fourier(time)
        else:
            features = sinusoids(time, self.pairs)
        if self.label_in is not None and label is not None:
            weight = self.label_in.weight.T * math.sqrt(self.classes)
            features = features + functional.embedding(label, weight) + self.label_in.bias
        if self.augment is not None:
            features = features + self.augment(features.new_zeros(1, self.augment.in_features))
        return features


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
        h = norm_silu(self.norm_in, x)
        if self.resample == "down":
            h, x = halve(h, self.resampling), halve(x, self.resampling)
        elif self.resample == "up":
            h = enlarge(h, height, width, self.resampling)
            x = enlarge(x, height, width, self.resampling)
        h = self.conv_in(h) + self.shift(embedding)[:, :, None, None]
        h = functional.dropout(norm_silu(self.norm_out, h), self.dropout, self.training)
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
        pixels = norm(self.norm, x).flatten(2).transpose(1, 2)
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


class DownLevel(nn.Module):
    """Residual blocks, each with attention after it if the level attends, then a halving block."""

    def __init__(
        self, spec: SongUNetSpec, inputs: int, outputs: int, *, attends: bool, last: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _block(spec, outputs if index else inputs, outputs) for index in range(spec.blocks)
        )
        self.attention = nn.ModuleList(
            Attention(outputs) for _ in range(spec.blocks if attends else 0)
        )
        self.down = None if last else _block(spec, outputs, outputs, "down")

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> list[Tensor]:
        """The level's skips, first to last; the last one is the next level's input."""
        skips = []
        for index, block in enumerate(self.blocks):
            x = block(x, embedding)
            if self.attention:
                x = self.attention[index](x)
            skips.append(x)
        if self.down is not None:
            skips.append(self.down(x, embedding))
        return skips


class UpLevel(nn.Module):
    """Residual blocks on (x, skip), attention once if the level attends, then a doubling block."""

    def __init__(
        self,
        spec: SongUNetSpec,
        inputs: int,
        skips: list[int],
        outputs: int,
        *,
        attends: bool,
        last: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _block(spec, (outputs if index else inputs) + skip, outputs)
            for index, skip in enumerate(skips)
        )
        self.attention = Attention(outputs) if attends else None
        self.up = None if last else _block(spec, outputs, outputs, "up")

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skips: list[Tensor]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Takes its skips off the end of `skips`; rises to the size of the one after them."""
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        if self.attention is not None:
            x = self.attention(x)
        if self.up is not None:
            height, width = skips[-1].shape[2:]
            x = self.up(x, embedding, height, width)
        return x


class SongUNet(nn.Module):
    """The network of a `SongUNetSpec`: velocity (or whatever it is trained for) of (xt, t, label).

    Source: Song et al. (arXiv 2011.13456), as configured by SlimFlow; its 999 t is inside.
    """

    def __init__(self, spec: SongUNetSpec, image: ImageShape) -> None:
        super().__init__()
        heights = level_heights(image.size, len(spec.channel_multipliers))
        attends = [height in spec.attention_resolutions for height in heights]
        widths = [spec.channels * multiplier for multiplier in spec.channel_multipliers]
        bottom = len(widths) - 1

        self.embedding = Embedding(spec, label_rows(image, null_class=spec.null_class))
        self.stem = conv(image.channels, spec.channels, 3)
        self.down = nn.ModuleList()
        channels, skips = spec.channels, [spec.channels]
        for level, width in enumerate(widths):
            last = level == bottom
            self.down.append(DownLevel(spec, channels, width, attends=attends[level], last=last))
            skips += [width] * (spec.blocks if last else spec.blocks + 1)
            channels = width
        self.middle_in = _block(spec, channels, channels)
        self.middle_attention = Attention(channels) if spec.middle_attention else None
        self.middle_out = _block(spec, channels, channels)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            taken = [skips.pop() for _ in range(spec.blocks + 1)]
            up = UpLevel(spec, channels, taken, width, attends=attends[level], last=level == 0)
            self.up.append(up)
            channels = width
        self.pyramid = nn.ModuleList()
        if spec.encoder == "residual":
            for inputs, outputs in pairwise((image.channels, *widths[:-1])):
                self.pyramid.append(PyramidStep(inputs, outputs, spec.resampling))
        self.head_norm = group_norm(channels, EPS)
        self.head = conv(channels, image.channels, 3, scale=NEARLY_ZERO)

    @property
    def time_layer(self) -> nn.Module:
        """The layer whose output is the embedded time."""
        return self.embedding.time_out

    @property
    def bottleneck(self) -> nn.Module:
        """The layer whose output sums up the image: the last one before the way up."""
        return self.middle_out

    @property
    def recomputable(self) -> list[nn.Module]:
        """The blocks whose activations can be computed again on the way back."""
        return [part for part in self.modules() if isinstance(part, (ResidualBlock, Attention))]

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """As `NetworkSpec` says; raises ValueError where a label is missing or one too many."""
        embedding = self.embedding(t, label)
        skips, image = [self.stem(xt)], xt
        for level, down in enumerate(self.down):
            skips += down(skips[-1], embedding)
            if level < len(self.pyramid):
                skips[-1] = image = merge(skips[-1], self.pyramid[level](image))
        x = self.middle_in(skips[-1], embedding)
        if self.middle_attention is not None:
            x = self.middle_attention(x)
        x = self.middle_out(x, embedding)
        for up in self.up:
            x = up(x, embedding, skips)
        velocity: Tensor = self.head(norm_silu(self.head_norm, x))
        return velocity


def _block(
    spec: SongUNetSpec, inputs: int, outputs: int, resample: Resample | None = None
) -> ResidualBlock:
    width = spec.embedding_multiplier * spec.channels
    return ResidualBlock(inputs, outputs, width, spec.dropout, resample, spec.resampling)
