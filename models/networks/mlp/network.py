"""Linear layers with skips; the hidden vectors are images of one pixel."""

import math

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks.layers import label_mistake
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.networks.spec import label_rows
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


class Layer(nn.Module):
    """x + linear(silu(x)) on the channels of images of one pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b c 1 1"]) -> Float[Tensor, "b c 1 1"]:
        h: Tensor = self.linear(functional.silu(x.flatten(1)))
        return x + h[:, :, None, None]


class MLP(nn.Module):
    """The network of an `MLPSpec`: velocity (or whatever it is trained for) of (xt, t, label)."""

    def __init__(self, spec: MLPSpec, image: ImageShape) -> None:
        super().__init__()
        values = image.channels * image.size**2
        self.classes = label_rows(image, null_class=spec.null_class)
        self.frequencies = spec.frequencies
        self.image_in = nn.Linear(values, spec.width)
        self.time_in = nn.Linear(1 + 2 * spec.frequencies, spec.width, bias=False)
        self.label_in = nn.Embedding(self.classes, spec.width) if self.classes else None
        self.layers = nn.ModuleList(Layer(spec.width) for _ in range(spec.layers))
        self.head = nn.Linear(spec.width, values)

    @property
    def time_layer(self) -> nn.Module:
        """The layer whose output is the embedded time."""
        return self.time_in

    @property
    def bottleneck(self) -> nn.Module:
        """The layer whose output sums up the input: the last hidden one."""
        return self.layers[-1]

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """As `NetworkSpec` says; raises ValueError where a label is missing or one too many."""
        if (label is None) != (self.classes == 0):
            raise ValueError(label_mistake(self.classes))
        h: Tensor = self.image_in(xt.flatten(1)) + self.time_in(self._features(t).to(xt.dtype))
        if self.label_in is not None:
            h = h + self.label_in(label)
        h = h[:, :, None, None]
        for layer in self.layers:
            h = layer(h)
        velocity: Tensor = self.head(functional.silu(h.flatten(1)))
        return velocity.view_as(xt)

    def _features(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
        """Time itself, then the sines and cosines of its multiples."""
        index = torch.arange(1, self.frequencies + 1, dtype=t.dtype, device=t.device)
        angle = math.pi * t[:, None] * index
        return torch.cat([t[:, None], angle.sin(), angle.cos()], dim=1)
