"""ADM: a U-Net whose skips are the stem, every block and every halving block of the way down."""

import math

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.fused_norm import norm, norm_silu
from slimctl.models.networks.layers import Enlarge, Halve, group_norm, label_mistake
from slimctl.models.networks.spec import label_rows, level_heights
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


def sinusoids(time: Float[Tensor, " b"], pairs: int) -> Float[Tensor, "b two_pairs"]:
    """Cosine then sine of time * f_i, f_i = exp(-ln(10000) i / pairs), i = 0..pairs-1."""
    index = torch.arange(pairs, dtype=torch.float32, device=time.device)
    angle = time[:, None] * torch.exp(index * (-math.log(10000) / pairs))
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class Embedding(nn.Module):
    """silu of the embedded time plus, for a conditional network, the embedded class.

    A class is a linear layer without bias on the one-hot label, as a look-up; its initial values
    are normal with variance 1.
    """

    def __init__(self, spec: ADMSpec, classes: int) -> None:
        super().__init__()
        width = spec.embedding_multiplier * spec.channels
        self.time_scale = spec.time_scale
        self.pairs = spec.channels // 2
        self.augment = nn.Linear(spec.augment, 2 * self.pairs, bias=False) if spec.augment else None
        self.time_in = nn.Linear(2 * self.pairs, width)
        self.time_out = nn.Linear(width, width)
        self.label = nn.Embedding(classes, width) if classes else None
        if self.augment is not None:
            nn.init.zeros_(self.augment.weight)

    def forward(
        self, t: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b width"]:
        """Embeds t (times `time_scale`) and label (0..classes-1, or None)."""
        if (label is None) != (self.label is None):
            raise ValueError(label_mistake(self.label.num_embeddings if self.label else 0))
        features = sinusoids(self.time_scale * t, self.pairs).to(self.time_in.weight.dtype)
        if self.augment is not None:
            features = features + self.augment(features.new_zeros(1, self.augment.in_features))
        vector: Tensor = self.time_out(functional.silu(self.time_in(features)))
        if self.label is not None:
            vector = vector + self.label(label)
        return functional.silu(vector)


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
        pixels = norm(self.norm, x).flatten(2).transpose(1, 2)
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
        h: Tensor = norm_silu(self.norm_in, x)
        if self.resample is not None:
            h, x = self.resample(h, height, width), self.resample(x, height, width)
        h = self.conv_in(h)
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(torch.addcmul(shift, norm(self.norm_out, h), scale + 1))
        h = self.conv_out(functional.dropout(h, self.dropout, self.training))
        h = h + (x if self.skip is None else self.skip(x))
        if self.attention is not None:
            h = self.attention(h)
        return h


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

        self.embedding = Embedding(spec, label_rows(image, null_class=spec.null_class))
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
        return [part for part in self.modules() if isinstance(part, ResidualBlock)]

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """As `NetworkSpec` says; raises ValueError where a label is missing or one too many."""
        embedding = self.embedding(t, label)
        skips = [self.stem(xt)]
        for down in self.down:
            skips += down(skips[-1], embedding)
        x = self.middle_out(self.middle_in(skips[-1], embedding), embedding)
        for up in self.up:
            x = up(x, embedding, skips)
        velocity: Tensor = self.head(norm_silu(self.head_norm, x))
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
