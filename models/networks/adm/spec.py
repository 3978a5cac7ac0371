"""What can be chosen in an ADM network; the defaults are those of SlimFlow's ImageNet students."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.models.networks.slim import share
from slimctl.models.networks.spec import NetworkSpec, level_heights
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.adm.network import ADM


class ADMSpec(NetworkSpec):
    """A U-Net whose blocks are scaled and shifted by time and class, with attention inside them.

    EDM's ImageNet teacher is `channels=192, channel_multipliers=(1, 2, 3, 4), blocks=3,
    attention_resolutions=(32, 16, 8), time_scale=1`.

    Source: Dhariwal and Nichol, Diffusion models beat GANs on image synthesis (arXiv 2105.05233),
    as EDM (arXiv 2206.00364) rewrote it and SlimFlow (arXiv 2407.12718) uses it.
    """

    takes_second_time: ClassVar[bool] = True

    kind: Literal["adm"] = "adm"
    """Family of the network."""
    channels: int = Field(ge=4, le=4096)
    """Width of the features of time, and channels of a level with multiplier 1."""
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 2, 4), min_length=1, max_length=12
    )
    """Channels of each level over `channels`; each level after the first has half the height."""
    blocks: int = Field(default=2, ge=1, le=64)
    """Residual blocks a level on the way down; on the way up there is one more."""
    attention_resolutions: tuple[Annotated[int, Field(ge=1)], ...] = (32, 16)
    """Heights in pixels of the levels with self-attention; a height no level has is ignored."""
    head_channels: int = Field(default=64, ge=1, le=4096)
    """Channels of one head of attention; a narrower block has no attention, not even in the
    middle."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped in each residual block while training."""
    embedding_multiplier: int = Field(default=4, ge=1, le=64)
    """Width of the embedding of time and class over `channels`."""
    time_scale: float = Field(default=999.0, gt=0)
    """What t is multiplied by: 999 for flow time, 1 where callers pass EDM's ln(sigma) / 4."""
    augment: int = Field(default=0, ge=0, le=1024)
    """Width of the labels of EDM's augmentation, which are fed zeros; 0 has no layer for them."""
    null_class: Annotated[bool, ADDED] = False
    """Whether one class more, the last, stands for none: what `label_dropout` trains."""

    @property
    def units(self) -> tuple[int, ...]:
        return (self.channels,)

    def slimmed(self, width: float, depth: float) -> "ADMSpec":
        channels = max(4, 4 * share(self.channels, width / 4)) if width < 1 else self.channels
        slim = {"channels": channels, "blocks": share(self.blocks, depth)}
        return self.model_validate({**self.model_dump(), **slim})

    def check(self, image: ImageShape) -> None:
        level_heights(image.size, len(self.channel_multipliers))

    def build(self, image: ImageShape) -> "ADM":
        from slimctl.models.networks.adm.network import ADM

        self.check(image)
        return ADM(self, image)
