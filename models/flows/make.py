"""From a network and what it predicts to a flow, and back."""

from torch import nn

from slimctl.models.flows.diffusion import DiffusionFlow
from slimctl.models.flows.edm import EDMFlow
from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.flows.noise_levels import noise_levels
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.spec import ImageShape


def make_flow(network: nn.Module, image: ImageShape, how: Parameterisation) -> Flow:
    """The flow of a network.

    Args:
        network: called as `network(x, time, label)`, with what its schedule says.
        image: shape of the images and number of classes.
        how: what it predicts, on which schedule.
    """
    if how.prediction == "velocity":
        return NetworkFlow(network, image, how.t_start)
    low, high = how.levels()
    if how.prediction == "edm":
        return EDMFlow(network, image, how.sigma_data, low, high)
    return DiffusionFlow(network, image, how.prediction, noise_levels(how.schedule), low, high)
