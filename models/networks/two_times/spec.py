"""What can be chosen in a network of two times: the network itself."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import PlainValidator, SerializeAsAny, WithJsonSchema

from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.two_times.network import TwoTimes


def _parse(value: Any) -> NetworkSpec:
    from slimctl.models.networks.registry import parse_network

    return parse_network(value)


class TwoTimesSpec(NetworkSpec):
    """A network that also takes the time at which a step ends, and gives the step's mean velocity.

    The kind `mean_flow` makes one of whatever network it is given.

    Source:
        Geng et al., Mean flows for one-step generative modeling, arXiv 2505.13447.
    """

    kind: Literal["two_times"] = "two_times"
    """Family of the network."""
    network: Annotated[
        SerializeAsAny[NetworkSpec],
        PlainValidator(_parse),
        WithJsonSchema({"type": "object", "description": "a network of another family"}),
    ]
    """The network of one time: a song_unet, an adm or an mlp."""

    def check(self, image: ImageShape) -> None:
        if not self.network.takes_second_time:
            raise ValueError(
                f"a {self.network.kind} takes no second time"
                "\n  fix: use a song_unet, adm or mlp, or train a one-step student in another way"
            )
        self.network.check(image)

    def build(self, image: ImageShape) -> "TwoTimes":
        from slimctl.models.networks.two_times.network import TwoTimes

        self.check(image)
        return TwoTimes(self.network.build(image))
