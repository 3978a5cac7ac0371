"""Time and class as the one vector that scales and shifts every block of an ADM network."""

import math

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.layers import label_mistake
from slimctl.models.shapes import Float, Int, Tensor


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
