"""LPIPS: the distance of two images in the features of VGG-16, weighted as people judge.

Five layers of VGG-16, each pixel's feature vector scaled to length 1, squared differences weighted
by channel and averaged over pixels, summed over the layers.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.perceptual.cost import VGG_DEPTHS as DEPTHS
from slimctl.models.perceptual.cost import VGG_WIDTHS as WIDTHS
from slimctl.models.perceptual.weight_file import fill
from slimctl.models.shapes import Float, Tensor

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of images in [-1, 1], per colour, before they enter VGG-16."""
SMALLEST = 16
"""Height, px, below which the fifth level has no pixels left."""
SQUARED_EPS = 1e-20
"""Under the root of a length: the published 1e-10 beside the root has no gradient at 0."""


class LPIPS(nn.Module):
    """The distance, frozen.

    Args:
        size: height and width that both images are resized to, px, at least 16; None = as they are.
            The corner pixels stay where they are, as in SlimFlow's code.

    Source: Zhang et al., arXiv 1801.03924, eq. 1, version 0.1 of the authors' weights.
    """

    def __init__(self, size: int | None = 64) -> None:
        super().__init__()
        self.size = size
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)
        inputs = (3, *WIDTHS)
        self.levels = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(inputs[level] if layer == 0 else width, width, 3, padding=1)
                for layer in range(depth)
            )
            for level, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True))
        )
        self.weights = nn.ParameterList(torch.ones(width) for width in WIDTHS)

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """Distances of images in [-1, 1], grey or colour."""
        total = torch.zeros(len(x), device=x.device)
        pairs = zip(self._features(x), self._features(y), self.weights, strict=True)
        for first, second, weights in pairs:
            squares = (_unit(first) - _unit(second)).square()
            total = total + torch.einsum("bchw,c->bhw", squares, weights).mean(dim=(1, 2))
        return total

    def _features(self, images: Tensor) -> list[Tensor]:
        x = images.expand(-1, 3, -1, -1)
        if self.size is not None and x.shape[2:] != (self.size, self.size):
            x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=True)
        x = (x - self.shift) / self.scale
        found = []
        for number, level in enumerate(self.levels):
            x = functional.max_pool2d(x, 2) if number else x
            for layer in level:  # type: ignore[attr-defined]
                x = functional.relu(layer(x))
            found.append(x)
        return found


def fill_lpips(network: LPIPS, vgg: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
    """Fills the distance with published weights and freezes it.

    Args:
        network: to fill.
        vgg: torchvision's VGG-16, `features.0.weight` and so on; its classifier is not used.
        linear: the authors' weights of the channels, `lin0.model.1.weight` (1, C, 1, 1) and so on.

    Raises:
        ValueError: tensors are missing, misshapen or unexpected; every one is listed.
    """
    state = {_vgg_name(name): value for name, value in vgg.items()}
    state |= {_linear_name(name): _as_row(value) for name, value in linear.items()}
    fill(network, state, ignored=("classifier.",))


def _places() -> dict[int, str]:
    """Number of a convolution in torchvision's sequence -> its name here."""
    places, number = {}, 0
    for level, depth in enumerate(DEPTHS):
        for layer in range(depth):
            places[number] = f"levels.{level}.{layer}"
            number += 2  # a rectification follows
        number += 1  # and a pooling
    return places


def _vgg_name(name: str) -> str:
    head, _, rest = name.partition(".")
    number, _, kind = rest.partition(".")
    known = _places()
    if head == "features" and number.isdigit() and int(number) in known:
        return f"{known[int(number)]}.{kind}"
    return name


def _linear_name(name: str) -> str:
    number = name.removeprefix("lin").removesuffix(".model.1.weight")
    return f"weights.{number}" if name == f"lin{number}.model.1.weight" else name


def _as_row(value: Tensor) -> Tensor:
    is_row = value.dim() == 4 and value.numel() == value.shape[1]
    return value.flatten() if is_row else value


def _unit(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Each pixel's vector scaled to length 1, in float32."""
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + SQUARED_EPS).rsqrt()
