"""ADM: a U-Net whose skips are the stem, every block and every halving block of the way down."""

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.adm.blocks import EPS, ResidualBlock, head_count, zero
from slimctl.models.networks.adm.embedding import Embedding
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.layers import Enlarge, Halve, group_norm
from slimctl.models.networks.pyramid import level_heights
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


class DownLevel(nn.Module):
    """A halving block unless it is the first level, then residual blocks."""

    def __init__(
        self, spec: ADMSpec, inputs: int, outputs: int, *, attends: bool, first: bool
    ) -> None:
        super().__init__()
        self.down = None if first else _block(spec, inputs, inputs, resample=Halve())
        self.blocks = nn.ModuleList(
            _block(spec, outputs if index else inputs, outputs, attends=attends)
            for index in range(spec.blocks)
        )

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> list[Tensor]:
        """The level's skips, first to last; the last one is the next level's input."""
        skips = [] if self.down is None else [self.down(x, embedding)]
        for block in self.blocks:
            skips.append(block(skips[-1] if skips else x, embedding))
        return skips


class UpLevel(nn.Module):
    """A doubling block unless it is the lowest level, then residual blocks on (x, skip)."""

    def __init__(
        self,
        spec: ADMSpec,
        inputs: int,
        skips: list[int],
        outputs: int,
        *,
        attends: bool,
        lowest: bool,
    ) -> None:
        super().__init__()
        self.up = None if lowest else _block(spec, inputs, inputs, resample=Enlarge())
        self.blocks = nn.ModuleList(
            _block(spec, (outputs if index else inputs) + skip, outputs, attends=attends)
            for index, skip in enumerate(skips)
        )

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"], skips: list[Tensor]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        """Takes its skips off the end of `skips`, which it first rises to the size of."""
        if self.up is not None:
            height, width = skips[-1].shape[2:]
            x = self.up(x, embedding, height, width)
        for block in self.blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        return x


class ADM(nn.Module):
    """The network of an `ADMSpec`: velocity (or whatever it is trained for) of (xt, t, label).

    Source: Dhariwal and Nichol (arXiv 2105.05233) as rewritten by EDM (arXiv 2206.00364).
    """

    def __init__(self, spec: ADMSpec, image: ImageShape) -> None:
        super().__init__()
        heights = level_heights(image.size, len(spec.channel_multipliers))
        attends = [height in spec.attention_resolutions for height in heights]
        widths = [spec.channels * multiplier for multiplier in spec.channel_multipliers]

        self.embedding = Embedding(spec, image.classes)
        self.stem = nn.Conv2d(image.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            first = level == 0
            self.down.append(DownLevel(spec, channels, width, attends=attends[level], first=first))
            skips += ([] if first else [channels]) + [width] * spec.blocks
            channels = width
        self.middle_in = _block(spec, channels, channels, attends=True)
        self.middle_out = _block(spec, channels, channels)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            taken = [skips.pop() for _ in range(spec.blocks + 1)]
            lowest = level == len(widths) - 1
            up = UpLevel(spec, channels, taken, width, attends=attends[level], lowest=lowest)
            self.up.append(up)
            channels = width
        self.head_norm = group_norm(channels, EPS)
        self.head = zero(nn.Conv2d(channels, image.channels, 3, padding=1))

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
        skips = [self.stem(xt)]
        for down in self.down:
            skips += down(skips[-1], embedding)
        x = self.middle_out(self.middle_in(skips[-1], embedding), embedding)
        for up in self.up:
            x = up(x, embedding, skips)
        velocity: Tensor = self.head(functional.silu(self.head_norm(x)))
        return velocity


def _block(
    spec: ADMSpec,
    inputs: int,
    outputs: int,
    *,
    attends: bool = False,
    resample: Halve | Enlarge | None = None,
) -> ResidualBlock:
    heads = head_count(outputs, spec.head_channels) if attends else 0
    width = spec.embedding_multiplier * spec.channels
    return ResidualBlock(inputs, outputs, width, spec.dropout, heads, resample)
