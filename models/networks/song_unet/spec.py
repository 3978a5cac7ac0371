"""What can be chosen in an NCSN++ or DDPM++; the defaults are those of SlimFlow's networks."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.models.networks.slim import share
from slimctl.models.networks.spec import NetworkSpec, level_heights
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.song_unet.network import SongUNet


class SongUNetSpec(NetworkSpec):
    """A U-Net of residual blocks with concatenated skips: NCSN++, the network of SlimFlow.

    EDM's DDPM++ is `channel_multipliers=(2, 2, 2), blocks=4, time_scale=1,
    label_entry="features", augment=9`; its NCSN++ has in addition `embedding="fourier",
    feature_multiplier=2, resampling="binomial", encoder="residual"`.

    Source: Song et al., Score-based generative modeling through SDEs (arXiv 2011.13456),
    appendix H, in the configurations of SlimFlow (arXiv 2407.12718) and of EDM (arXiv 2206.00364,
    appendix F).
    """

    takes_second_time: ClassVar[bool] = True

    kind: Literal["song_unet"] = "song_unet"
    """Family of the network."""
    channels: int = Field(ge=4, le=4096)
    """Channels of the first level, the paper's nf."""
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 2), min_length=1, max_length=12
    )
    """Channels of each level over `channels`; each level after the first has half the height."""
    blocks: int = Field(default=2, ge=1, le=64)
    """Residual blocks a level on the way down; on the way up there is one more."""
    attention_resolutions: tuple[Annotated[int, Field(ge=1)], ...] = (16,)
    """Heights in pixels of the levels with self-attention; a height no level has is ignored."""
    middle_attention: bool = True
    """Whether the lowest level has self-attention between its two middle blocks."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of activations dropped in each residual block while training."""
    embedding_multiplier: int = Field(default=4, ge=1, le=64)
    """Width of the embedding of time and class over `channels`."""
    embedding: Literal["positional", "fourier"] = "positional"
    """Frequencies of the features of time: fixed, falling to 1/10000, or drawn once at random."""
    feature_multiplier: int = Field(default=1, ge=1, le=64)
    """Width of the features of time over `channels`."""
    time_scale: float = Field(default=999.0, gt=0)
    """What t is multiplied by: 999 for flow time, 1 where callers pass EDM's ln(sigma) / 4."""
    label_entry: Literal["embedding", "features"] = "embedding"
    """What the class is added to: the embedding, or, as in EDM, the features before its layers."""
    augment: int = Field(default=0, ge=0, le=1024)
    """Width of the labels of EDM's augmentation, which are fed zeros; 0 has no layer for them."""
    resampling: Literal["box", "binomial"] = "box"
    """Filter of halving and doubling in each direction: [1, 1] or [1, 3, 3, 1]."""
    encoder: Literal["standard", "residual"] = "standard"
    """`residual` adds to each level the image, halved and convolved once per level."""
    null_class: Annotated[bool, ADDED] = False
    """Whether one class more, the last, stands for none: what `label_dropout` trains."""

    @property
    def units(self) -> tuple[int, ...]:
        return (self.channels,)

    def slimmed(self, width: float, depth: float) -> "SongUNetSpec":
        channels = max(4, 4 * share(self.channels, width / 4)) if width < 1 else self.channels
        slim = {"channels": channels, "blocks": share(self.blocks, depth)}
        return self.model_validate({**self.model_dump(), **slim})

    def check(self, image: ImageShape) -> None:
        level_heights(image.size, len(self.channel_multipliers))

    def build(self, image: ImageShape) -> "SongUNet":
        from slimctl.models.networks.song_unet.network import SongUNet

        self.check(image)
        return SongUNet(self, image)
