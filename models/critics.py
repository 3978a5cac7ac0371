"""The critic of distribution matching: a flow of the generated images that may also judge them.

Its flow is a teacher-size network that starts as the teacher. The head sits on that network's
bottleneck, which every family of networks names, so that it sees what the flow sees and costs next
to nothing. The bottleneck is read while the flow runs, behind whatever scaling the flow does, so
that EDM's networks serve as well as ours.
"""

import math
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.conditions import Condition
from slimctl.models.engine import without_engine
from slimctl.models.flows.flow import Flow
from slimctl.models.networks.layers import group_norm
from slimctl.models.shapes import Float, Int, Tensor

EPS = 1e-5
"""Of the head's GroupNorm."""


class Head(nn.Module):
    """From the features of a bottleneck to one number a sample: positive for a real image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = group_norm(channels, EPS)
        self.out = nn.Linear(channels, 1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        h = functional.silu(self.norm(self.conv(features)))
        logit: Tensor = self.out(h.mean(dim=(2, 3)))
        return logit.squeeze(1)


class ChannelMean(nn.Module):
    """The mean over the channels of a bottleneck, without weights: one number a place.

    Source: Zhou et al. (SiDA), arXiv 2410.14919, section 3.
    """

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
        return features.mean(dim=1).flatten(1)


class Critic(nn.Module):
    """A flow in training and, if it is to judge, a head on its network's bottleneck."""

    def __init__(self, flow: Flow, head: Literal["convolution", "mean"] | None = None) -> None:
        """Takes over `flow` and makes the head with torch's global generator; None = no head.

        Raises:
            ValueError: the flow has no network, or one of a family that names no bottleneck.
        """
        super().__init__()
        self.flow = flow
        channels = 0 if head is None else _bottleneck_channels(flow)
        self.head: nn.Module | None = None
        if head is not None:
            self.head = Head(channels) if head == "convolution" else ChannelMean()

    def velocity(self, xt: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity of the generated images' flow, as `Flow.velocity`."""
        velocity: Tensor = self(xt, t, label)[0]  # a call: its weights may be in parts
        return velocity

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b *n"] | None]:
        """The velocity, and the judgement (a logit, or one a place) of each point by a head."""
        if self.head is None:
            return self.flow.velocity(xt, t, label), None
        velocity, features = _with_bottleneck(self.flow, xt, t, label)
        return velocity, self.head(features.float())  # the head itself is never bfloat16


def _with_bottleneck(flow: Flow, xt: Tensor, t: Tensor, label: Condition) -> tuple[Tensor, Tensor]:
    """A flow's velocity and what its network's bottleneck gave on the way, (b, c, h, w)."""
    caught: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(_as_map(output))

    hook = _bottleneck(flow).register_forward_hook(keep)
    try:
        velocity = flow.velocity(xt, t, label)
    finally:
        hook.remove()
    return velocity, caught[-1]


def _as_map(output: Any) -> Tensor:
    """What a layer gave as (b, c, h, w): tokens (b, n, c), the last of several, are a square."""
    features: Tensor = output[-1] if isinstance(output, tuple) else output
    if features.dim() == 4:
        return features
    b, n, c = features.shape
    side = math.isqrt(n)
    return features.transpose(1, 2).reshape(b, c, side, side)


def _bottleneck(flow: Flow) -> nn.Module:
    network = getattr(flow, "network", None)
    if network is None:
        raise ValueError(
            "this flow has no network, so nothing of it can be trained"
            "\n  fix: give a flow with a network as the fake one"
        )
    network = without_engine(network)
    layer: nn.Module | None = getattr(network, "bottleneck", None)
    if layer is None:
        raise ValueError(
            f"a {type(network).__name__} names no bottleneck to judge images by"
            "\n  fix: leave adversarial out, or use a song_unet, adm, mlp or diffusers_model"
        )
    return layer


@torch.no_grad()
def _bottleneck_channels(flow: Flow) -> int:
    image = flow.image
    weight = next(flow.parameters(), torch.empty(0))
    xt = torch.zeros(1, image.channels, image.size, image.size, device=weight.device)
    t = torch.full((1,), 0.5, device=weight.device)
    label: Condition = None
    if image.classes:
        label = torch.zeros(1, dtype=torch.int64, device=weight.device)
    elif flow.text is not None:
        label = flow.text.null().to(weight.device)
    return _with_bottleneck(flow, xt, t, label)[1].shape[1]
