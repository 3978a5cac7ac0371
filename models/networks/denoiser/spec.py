"""What can be chosen in a denoiser: the flow's network, what it predicts, and where it begins."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PlainValidator, SerializeAsAny, WithJsonSchema

from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.denoiser.network import Denoiser


HIGHEST = 1000.0
"""Noise level beyond which there is nothing but noise."""


def _parse(value: Any) -> NetworkSpec:
    from slimctl.models.networks.registry import parse_network

    return parse_network(value)


class DenoiserSpec(NetworkSpec):
    """A network whose one step is the image that a flow expects behind noise of one level.

    `sigma_init` of `match_distribution` makes one of the flow that the student starts from.

    Source:
        Zhou et al. (SiD), arXiv 2404.04057: its generator, with sigma_init 2.5.
    """

    kind: Literal["denoiser"] = "denoiser"
    """Family of the network."""
    network: Annotated[
        SerializeAsAny[NetworkSpec],
        PlainValidator(_parse),
        WithJsonSchema({"type": "object", "description": "a network of another family"}),
    ]
    """The flow's network."""
    flow: Parameterisation
    """What it predicts."""
    sigma: float = Field(gt=0, le=HIGHEST)
    """Noise level that the noise is taken for: its flow time is 1 / (1 + sigma)."""

    @classmethod
    def beginning(
        cls, network: NetworkSpec, flow: Parameterisation, sigma: float | None = None
    ) -> NetworkSpec:
        """A flow's network as that of a one-step student.

        Args:
            network: of the flow.
            flow: what it predicts.
            sigma: where it begins; None = where the flow does, which of a velocity is pure noise.
        """
        if sigma is None and not flow.denoises:
            return network
        fields = {name: getattr(flow, name) for name in Parameterisation.model_fields}
        level = min(sigma or flow.levels()[1], HIGHEST)
        return cls(network=network, flow=Parameterisation(**fields), sigma=level)

    @property
    def takes_text(self) -> bool:
        """Whether its network does."""
        return self.network.takes_text

    @property
    def text_width(self) -> int | None:
        """That of its network."""
        return self.network.text_width

    def check(self, image: ImageShape) -> None:
        self.network.check(image)

    def build(self, image: ImageShape) -> "Denoiser":
        from slimctl.models.networks.denoiser.network import Denoiser

        return Denoiser(self, image)
