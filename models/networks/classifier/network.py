"""A residual classifier with GroupNorm, so that an image's features never depend on its batch.

The features are the linear layer before the last activation: unlike rectified ones they have no
pile-up at 0, which suits the Gaussian that a Fréchet distance fits to them.
"""

from torch import nn
from torch.nn import functional

from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.networks.layers import group_norm, halve
from slimctl.models.shapes import Float, Tensor
from slimctl.models.spec import ImageShape

EPS = 1e-5
"""Of every GroupNorm in the network."""


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), with a 1x1 convolution where channels change."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm_in = group_norm(inputs, EPS)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm_out = group_norm(outputs, EPS)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h w"]:
        h: Tensor = self.conv_in(functional.silu(self.norm_in(x)))
        h = self.conv_out(functional.silu(self.norm_out(h)))
        skip: Tensor = x if self.skip is None else self.skip(x)
        return h + skip


class Level(nn.Module):
    """Halves the image unless it is the first level, then runs its blocks."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.blocks = nn.ModuleList(
            Block(outputs if index else inputs, outputs) for index in range(blocks)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        x = x if self.first else halve(x)
        for block in self.blocks:
            x = block(x)
        return x


class Classifier(nn.Module):
    """The network of a `ClassifierSpec`: `features` for metrics, `forward` for training."""

    def __init__(self, spec: ClassifierSpec, image: ImageShape) -> None:
        super().__init__()
        self.stem = nn.Conv2d(image.channels, spec.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        channels = spec.channels
        for index, multiplier in enumerate(spec.channel_multipliers):
            width = multiplier * spec.channels
            self.levels.append(Level(channels, width, spec.blocks, first=index == 0))
            channels = width
        self.norm = group_norm(channels, EPS)
        self.embed = nn.Linear(channels, spec.features)
        self.classify = nn.Linear(spec.features, image.classes)

    def features(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Feature vectors of images in [-1, 1]."""
        x = self.stem(images)
        for level in self.levels:
            x = level(x)
        vectors: Tensor = self.embed(functional.silu(self.norm(x)).mean(dim=(2, 3)))
        return vectors

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of each class for images in [-1, 1]."""
        logits: Tensor = self.classify(functional.silu(self.features(images)))
        return logits
