"""The network of an `ImageCriticSpec`: no normalisation, so that a sample is judged by itself.

The second convolution of a block starts at zero and the first one is scaled by the number of
blocks (fix-up), which takes the place of normalisation. The time at which an image is noised shifts
the channels behind the first convolution; its class is compared with the last features.
"""

import math

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.image_critic.spec import ImageCriticSpec
from slimctl.models.networks.layers import halve
from slimctl.models.networks.spec import level_heights
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape

SLOPE = 0.2
"""Of the activation below 0."""
WAVES = 4
"""Cosines of the time: pi, 2 pi, ... times it."""


def _active(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE)


class Block(nn.Module):
    """x + conv(act(conv(act(x)))), with a 1x1 convolution where channels change."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        nn.init.kaiming_normal_(self.conv_in.weight, SLOPE)
        nn.init.zeros_(self.conv_in.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_out.weight)
        with torch.no_grad():
            self.conv_in.weight.mul_(blocks**-0.5)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        h: Tensor = self.conv_out(_active(self.conv_in(_active(x))))
        skip: Tensor = x if self.skip is None else self.skip(x)
        return skip + h


class ImageCritic(nn.Module):
    """From images, the times of their noise and their classes to one number each.

    Of two numbers the larger one is for the image that looks more like a real one; only their
    difference means something, until `calibration_loss` has trained the offset.
    """

    def __init__(self, spec: ImageCriticSpec, image: ImageShape) -> None:
        super().__init__()
        width = spec.channels
        self.stem = nn.Conv2d(image.channels, width, 3, padding=1)
        self.time = nn.Linear(WAVES, width, bias=False)
        total = spec.blocks * len(spec.channel_multipliers)
        self.levels = nn.ModuleList()
        for multiplier in spec.channel_multipliers:
            level = nn.ModuleList()
            for _ in range(spec.blocks):
                level.append(Block(width, multiplier * spec.channels, total))
                width = multiplier * spec.channels
            self.levels.append(level)
        height = level_heights(image.size, len(spec.channel_multipliers))[-1]
        self.basis = nn.Conv2d(width, width, height, groups=width, bias=False)
        self.out = nn.Parameter(torch.randn(width) * width**-0.5)
        self.classes = nn.Embedding(image.classes, width) if image.classes else None
        self.offset = nn.Linear(WAVES, 1)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(
        self,
        images: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b 2"]:
        """A number for each image, and the number at its time of one that is as likely either.

        Their difference is the log ratio of real and generated images. t = 1 is without noise.
        """
        waves = _waves(t)
        x = self.stem(images) + self.time(waves)[:, :, None, None]
        for number, level in enumerate(self.levels):
            x = halve(x) if number else x
            for block in level:  # type: ignore[attr-defined]
                x = block(x)
        features = _active(self.basis(_active(x)).flatten(1))
        said: Tensor = features @ self.out
        if self.classes is not None and label is not None:
            said = said + (self.classes(label) * features).mean(dim=1)
        return torch.stack((said, self.offset(waves).squeeze(1)), dim=1)


def _waves(t: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
    """Cosines of the time, that of t = 1 and of t = 0 apart."""
    index = torch.arange(1, WAVES + 1, dtype=t.dtype, device=t.device)
    return (math.pi * t[:, None] * index).cos()
