"""The Inception network that published FIDs are taken with, in torch-fidelity's naming.

It is TensorFlow's network of 2015-12-05, which differs from the better known one in three places:
average pooling leaves the padding out of its means, the last block pools by maximum, and images are
resized as TensorFlow 1 did, whose grid starts in the corner of a pixel and not in its centre.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.shapes import Float, Tensor, UInt8

SIZE = 299
"""Height and width that images are resized to, px."""
DIMENSIONS = 2048
"""Length of a feature vector."""
UNUSED = ("fc.", ".num_batches_tracked")
"""The published classifier and a counter of its training, which features do not need."""

Pool = Literal["mean", "maximum", "halve"]


@dataclass(frozen=True)
class Step:
    """A convolution of a branch."""

    name: str
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True


Branch = tuple[Step | tuple[Step, Step], ...]
"""Convolutions one after the other; a pair runs side by side and is joined."""

ROW, COLUMN, SQUARE = (1, 7), (7, 1), (3, 3)


class StoredNormalisation(nn.Module):
    """Batch normalisation by stored statistics only: it is never trained here."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3
        )


class Convolution(nn.Module):
    """Convolution, batch normalisation with stored statistics, and rectification."""

    def __init__(self, inputs: int, step: Step) -> None:
        super().__init__()
        height, width = step.kernel
        padding = (height // 2, width // 2) if step.padded else (0, 0)
        self.conv = nn.Conv2d(
            inputs, step.outputs, step.kernel, step.stride, padding=padding, bias=False
        )
        self.bn = StoredNormalisation(step.outputs)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return functional.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side over the same input, joined along the channels, the pool last."""

    def __init__(
        self, inputs: int, branches: tuple[Branch, ...], pool: Pool, pool_outputs: int = 0
    ) -> None:
        super().__init__()
        self.branches = branches
        self.pool = pool
        for branch in branches:
            self._add(branch, inputs)
        if pool != "halve":
            self.branch_pool = Convolution(inputs, Step("branch_pool", pool_outputs))

    def _add(self, branch: Branch, inputs: int) -> None:
        for step in branch:
            parallel = step if isinstance(step, tuple) else (step,)
            for one in parallel:
                self.add_module(one.name, Convolution(inputs, one))
            inputs = sum(one.outputs for one in parallel)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        parts = [self._run(branch, x) for branch in self.branches]
        if self.pool == "halve":
            parts.append(functional.max_pool2d(x, 3, stride=2))
        elif self.pool == "maximum":
            parts.append(self.branch_pool(functional.max_pool2d(x, 3, stride=1, padding=1)))
        else:
            mean = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
            parts.append(self.branch_pool(mean))
        return torch.cat(parts, dim=1)

    def _run(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, tuple):
                x = torch.cat([self.get_submodule(one.name)(x) for one in step], dim=1)
            else:
                x = self.get_submodule(step.name)(x)
        return x


def _chain(name: str, *steps: Step) -> Branch:
    """Convolutions of one branch, which are published as `name_1`, `name_2` and so on."""
    return tuple(replace(step, name=f"{name}_{at}") for at, step in enumerate(steps, start=1))


def _block_35(inputs: int, pool_outputs: int) -> Mixed:
    """Of the 35 x 35 level."""
    five = _chain("branch5x5", Step("", 48), Step("", 64, (5, 5)))
    three = _chain("branch3x3dbl", Step("", 64), Step("", 96, SQUARE), Step("", 96, SQUARE))
    return Mixed(inputs, ((Step("branch1x1", 64),), five, three), "mean", pool_outputs)


def _to_17(inputs: int) -> Mixed:
    """From 35 x 35 to 17 x 17."""
    halving = Step("", 96, SQUARE, 2, padded=False)
    three = _chain("branch3x3dbl", Step("", 64), Step("", 96, SQUARE), halving)
    return Mixed(inputs, ((Step("branch3x3", 384, SQUARE, 2, padded=False),), three), "halve")


def _block_17(inputs: int, width: int) -> Mixed:
    """Of the 17 x 17 level, with 7 x 7 convolutions as rows and columns."""
    row, column = Step("", width, ROW), Step("", width, COLUMN)
    once = _chain("branch7x7", Step("", width), row, Step("", 192, COLUMN))
    twice = _chain("branch7x7dbl", Step("", width), column, row, column, Step("", 192, ROW))
    return Mixed(inputs, ((Step("branch1x1", 192),), once, twice), "mean", 192)


def _to_8(inputs: int) -> Mixed:
    """From 17 x 17 to 8 x 8."""
    three = _chain("branch3x3", Step("", 192), Step("", 320, SQUARE, 2, padded=False))
    row, column = Step("", 192, ROW), Step("", 192, COLUMN)
    halving = Step("", 192, SQUARE, 2, padded=False)
    return Mixed(
        inputs, (three, _chain("branch7x7x3", Step("", 192), row, column, halving)), "halve"
    )


def _block_8(inputs: int, pool: Pool) -> Mixed:
    """Of the 8 x 8 level, whose branches end in a row and a column side by side."""

    def both(name: str) -> tuple[Step, Step]:
        return Step(f"{name}a", 384, (1, 3)), Step(f"{name}b", 384, (3, 1))

    three = (Step("branch3x3_1", 384), both("branch3x3_2"))
    twice = (*_chain("branch3x3dbl", Step("", 448), Step("", 384, SQUARE)), both("branch3x3dbl_3"))
    return Mixed(inputs, ((Step("branch1x1", 320),), three, twice), pool, 192)


class Inception(nn.Module):
    """Features for FID and KID: the mean over pixels of the last block, 2048 numbers an image.

    Source: Szegedy et al., arXiv 1512.00567; the layout and the names are those of torch-fidelity's
        `weights-inception-2015-12-05-6726825d.pth`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, Step("", 32, SQUARE, 2, padded=False))
        self.Conv2d_2a_3x3 = Convolution(32, Step("", 32, SQUARE, padded=False))
        self.Conv2d_2b_3x3 = Convolution(32, Step("", 64, SQUARE))
        self.Conv2d_3b_1x1 = Convolution(64, Step("", 80))
        self.Conv2d_4a_3x3 = Convolution(80, Step("", 192, SQUARE, padded=False))
        self.Mixed_5b = _block_35(192, 32)
        self.Mixed_5c = _block_35(256, 64)
        self.Mixed_5d = _block_35(288, 64)
        self.Mixed_6a = _to_17(288)
        self.Mixed_6b = _block_17(768, 128)
        self.Mixed_6c = _block_17(768, 160)
        self.Mixed_6d = _block_17(768, 160)
        self.Mixed_6e = _block_17(768, 192)
        self.Mixed_7a = _to_8(768)
        self.Mixed_7b = _block_8(1280, "mean")
        self.Mixed_7c = _block_8(2048, "maximum")

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 2048"]:
        """Features of images of 8 bits, of any size."""
        x = (resize_like_tensorflow(images.float(), SIZE) - 128.0) / 128.0
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, stride=2)
        x = functional.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))


def resize_like_tensorflow(images: Float[Tensor, "b c h w"], size: int) -> Tensor:
    """Bilinear images (B, C, size, size): pixel i of the result is at i h / size of the source.

    Source: TensorFlow 1's resize_bilinear with align_corners=False.
    """
    down = _weights(images.shape[2], size, images.device)
    right = _weights(images.shape[3], size, images.device)
    return down @ images @ right.T


def _weights(source: int, size: int, device: torch.device) -> Float[Tensor, "n m"]:
    """Share of each source pixel (column) in each pixel of the result (row)."""
    place = torch.arange(size, device=device, dtype=torch.float32) * (source / size)
    low = place.long()
    share = place - low
    rows = torch.arange(size, device=device)
    weights = torch.zeros(size, source, device=device)
    weights[rows, low] = 1.0 - share
    weights[rows, (low + 1).clamp_max(source - 1)] += share
    return weights
