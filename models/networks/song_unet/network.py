"""NCSN++: a U-Net whose skips are the stem and every block and down-block output.

Each way down and up is a list of levels in the order in which they run, and a level owns the
block that leads to the next one, so that the layout reads like the published description.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.layers import group_norm
from slimctl.models.networks.pyramid import level_heights
from slimctl.models.networks.song_unet.blocks import (
    EPS,
    Attention,
    PyramidStep,
    Resample,
    ResidualBlock,
    merge,
)
from slimctl.models.networks.song_unet.embedding import Embedding
from slimctl.models.networks.song_unet.initialisation import NEARLY_ZERO, conv
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


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

        self.embedding = Embedding(spec, image.classes)
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
    def bottleneck(self) -> nn.Module:
        """The layer whose output sums up the image: the last one before the way up."""
        return self.middle_out

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Evaluates the network at xt (pixels about [-1, 1]) and t in [0, 1].

        Raises:
            ValueError: a conditional network got no label, or an unconditional one got one.
        """
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
        velocity: Tensor = self.head(functional.silu(self.head_norm(x)))
        return velocity


def _block(
    spec: SongUNetSpec, inputs: int, outputs: int, resample: Resample | None = None
) -> ResidualBlock:
    width = spec.embedding_multiplier * spec.channels
    return ResidualBlock(inputs, outputs, width, spec.dropout, resample, spec.resampling)
