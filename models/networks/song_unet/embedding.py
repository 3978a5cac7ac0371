"""Time and class as the one vector that every residual block reads."""

import math

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.layers import label_mistake
from slimctl.models.networks.song_unet.initialisation import class_embedding, linear
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.shapes import Float, Int, Tensor

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
