"""What reading a file of anybody's gives: a network, its weights and what they make a flow of."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is read and checked, not yet built.

    Args:
        network: architecture of its network.
        image: its images, with the number of classes.
        how: what the network predicts.
        weights: name in the network's state dictionary -> tensor, contiguous.
        assumed: what the file does not say and convention does, in words; "" = nothing.
        undecided: what neither says, so that it was guessed, in words; "" = nothing.
    """

    network: NetworkSpec
    image: ImageShape
    how: Parameterisation
    weights: Mapping[str, Tensor]
    assumed: str = ""
    undecided: str = ""

    def require_finite(self) -> None:
        """Raises ValueError, naming every tensor that holds NaN or infinity."""
        lost = [name for name, value in self.weights.items() if not bool(value.isfinite().all())]
        if lost:
            raise ValueError(
                f"holds NaN or infinity in {', '.join(lost)}\n  fix: take an earlier checkpoint"
            )

    def flow(self) -> Flow:
        """The flow, on the CPU, frozen, in evaluation mode; it takes over the weights."""
        network = build_to_fill(self.network, self.image)
        state = {name: _as_float(value) for name, value in self.weights.items()}
        network.load_state_dict(state, assign=True)
        flow = make_flow(network, self.image, self.how)
        return flow.eval().requires_grad_(requires_grad=False)


def build_to_fill(spec: NetworkSpec, image: ImageShape) -> nn.Module:
    """The network without memory for its weights, where its family is known to allow that.

    Raises:
        ValueError: it cannot be built for images of that shape.
    """
    if isinstance(spec, (SongUNetSpec, ADMSpec)):
        with torch.device("meta"):
            return spec.build(image)
    return spec.build(image)


def _as_float(value: Tensor) -> Tensor:
    """Float32; whole numbers and truth values, which count or mask, stay what they are."""
    return value.float() if value.is_floating_point() else value
