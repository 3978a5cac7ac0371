"""What can be chosen in the critic of images.

It gives a number and no velocity, so it is not among the network families of flows.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from slimctl.models.networks.spec import NetworkSpec, level_heights
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.image_critic.network import ImageCritic


class ImageCriticSpec(NetworkSpec):
    """Residual blocks without any normalisation at falling heights, and one number at the end.

    Source:
        Huang et al. (R3GAN), arXiv 2501.05441, section 4, with plain for grouped convolutions.
    """

    kind: Literal["image_critic"] = "image_critic"
    """Family of the network."""
    channels: int = Field(default=32, ge=4, le=4096)
    """Channels of the first level."""
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2), min_length=1, max_length=12
    )
    """Channels of each level over `channels`; each level after the first has half the height."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks a level."""

    def check(self, image: ImageShape) -> None:
        level_heights(image.size, len(self.channel_multipliers))

    def build(self, image: ImageShape) -> "ImageCritic":
        from slimctl.models.networks.image_critic.network import ImageCritic

        self.check(image)
        return ImageCritic(self, image)
