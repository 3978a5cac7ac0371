"""Parameters and multiply-adds of a network by its spec; of published ones without torch."""

from functools import cache

from pydantic import Field

from slimctl.models.networks.presets import PRESETS
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape, Spec


class NetworkSize(Spec):
    """How large a network is."""

    parameters: int = Field(ge=0)
    """Number of parameters."""
    macs: int = Field(ge=0)
    """Multiply-adds of one evaluation for one image, as `metrics.cost` counts them."""


@cache
def network_size(network: NetworkSpec, image: ImageShape) -> NetworkSize:
    """Looks a published network up, and counts any other one on the meta device.

    Raises:
        ValueError: it cannot be built for images of that shape.
    """
    asked = _without_dropout(network)
    for preset in PRESETS.values():
        if preset.image == image and _without_dropout(preset.network) == asked:
            return NetworkSize(parameters=preset.parameters, macs=preset.macs)
    from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters

    module = build_on_meta(network, image)
    return NetworkSize(parameters=count_parameters(module), macs=count_macs(module, image))


def _without_dropout(network: NetworkSpec) -> NetworkSpec:
    return network.model_copy(update={"dropout": 0.0})
