"""A network with a second time, which enters where the first one does.

The second time is added to what the network's `time_layer` makes of the first, behind a layer that
is zero at first: so a network that starts from a flow's weights begins as that flow, bit for bit.
It is added while the layer runs, so that no family needs to know of it.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.shapes import Float, Int, Tensor

WAVES = 8
"""Sines and cosines of the step's length: pi, 2 pi, ... 8 pi times it."""


class EndEmbedding(nn.Module):
    """From the length of a step, in [0, 1], to a vector that is zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(1 + 2 * WAVES, width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, length: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        index = torch.arange(1, WAVES + 1, dtype=length.dtype, device=length.device)
        angle = math.pi * length[:, None] * index
        features = torch.cat([length[:, None], angle.sin(), angle.cos()], dim=1)
        vector: Tensor = self.out(functional.silu(self.inner(features.to(self.inner.weight.dtype))))
        return vector


class TwoTimes(nn.Module):
    """Mean velocity u(xt, t, end) of the step from t to `end`."""

    takes_end = True
    """Says that it is called with a second time."""

    def __init__(self, network: nn.Module) -> None:
        """Takes over a network that has a `time_layer`, an `nn.Linear`."""
        super().__init__()
        self.network = network
        self.end = EndEmbedding(network.time_layer.out_features)  # type: ignore[arg-type,union-attr]

    @property
    def bottleneck(self) -> nn.Module:
        """That of the network."""
        layer: nn.Module = self.network.bottleneck  # type: ignore[assignment]
        return layer

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
        end: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """As `NetworkSpec` says; `end` in [t, 1], None = 1, the step to the image."""
        shift: Tensor = self.end((1.0 if end is None else end) - t)

        def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            moved: Tensor = output + shift.to(output.dtype)
            return moved

        hook = self.network.time_layer.register_forward_hook(add)  # type: ignore[union-attr]
        try:
            velocity: Tensor = self.network(xt, t, label)
        finally:
            hook.remove()
        return velocity
