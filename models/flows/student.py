"""The velocity of a network in training that predicts something else, as its teacher did."""

import torch
from torch import nn

from slimctl.models.flows.denoising import DenoisingFlow, make_flow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.losses import Velocity
from slimctl.models.shapes import Float, Tensor
from slimctl.models.spec import ImageShape


class StudentFlow:
    """What turns a network's answers into velocities, whichever network that is at the moment.

    A network that predicts velocities is its own. No module, so that nothing else than the loop
    looks after the network.
    """

    def __init__(self, how: Parameterisation, image: ImageShape, device: torch.device) -> None:
        made = make_flow(nn.Identity(), image, how).to(device)
        self._flow = made if isinstance(made, DenoisingFlow) else None

    def of(self, network: nn.Module | Velocity) -> Velocity:
        """The velocity of a network."""
        if self._flow is None:
            return network
        self._flow.network = network  # type: ignore[assignment]
        return self._flow.velocity

    def in_units(self, loss: Float[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """A squared error of velocities as one of the network's answers.

        An answer that tells noise moves the velocity by 1 + sigma, so that without it nothing but
        the noisiest times would count.
        """
        if self._flow is None:
            return loss
        return loss / self._flow.unit(t).to(loss.dtype).square()
