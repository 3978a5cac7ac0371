"""Layers with NCSN++'s initial weights: variance scaling, fan average, uniform; biases 0.

Source: `default_init` of Song et al.'s score_sde code. "Zero" layers start at scale 1e-10 and
not at 0, as published, so that gradients reach the layers before them from the first step.
"""

import math

from torch import nn

from slimctl.models.shapes import Tensor

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
