"""Time and class as the one vector that every residual block reads."""

import math

import torch
from torch import nn
from torch.nn import functional

from models.networks.song_unet.initialisation import class_embedding, linear
from models.shapes import Float, Int, Tensor

TIME_SCALE = 999.0
"""Networks are published with time running over [0, 999]; callers pass t in [0, 1]."""


def sinusoids(time: Float[Tensor, " b"], pairs: int) -> Float[Tensor, "b two_pairs"]:
    """Sine then cosine of time * f_i, f_i = exp(-ln(10000) i / (pairs - 1)), i = 0..pairs-1.

    The frequencies are computed at each call and are no buffer: a network cast to bfloat16, or
    made on the meta device and filled from a file, then still has exact ones.
    """
    index = torch.arange(pairs, dtype=torch.float32, device=time.device)
    angle = time[:, None] * torch.exp(index * (-math.log(10000) / (pairs - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Embedding(nn.Module):
    """silu of the embedded time plus, for a conditional network, the embedded class."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.pairs = channels // 2
        self.time_in = linear(2 * self.pairs, width)
        self.time_out = linear(width, width)
        self.label = class_embedding(classes, width) if classes else None

    def forward(
        self, t: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b width"]:
        """Embeds t in [0, 1] and label (0..classes-1, or None)."""
        if (label is None) != (self.label is None):
            raise ValueError(self._label_mistake())
        angles = sinusoids(TIME_SCALE * t, self.pairs).to(self.time_in.weight.dtype)
        vector: Tensor = self.time_out(functional.silu(self.time_in(angles)))
        if self.label is not None:
            vector = vector + self.label(label)
        return functional.silu(vector)

    def _label_mistake(self) -> str:
        if self.label is None:
            return "this network has no classes but got a label\n  fix: call network(xt, t, None)"
        count = self.label.num_embeddings
        return (
            f"this network is conditional on {count} classes but got no label"
            f"\n  fix: call network(xt, t, label) with int64 labels of 0..{count - 1}, shape (B,)"
        )
