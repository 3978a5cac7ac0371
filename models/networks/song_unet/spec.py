"""What can be chosen in an NCSN++; the defaults are those of SlimFlow's networks."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from models.networks.pyramid import level_heights
from models.networks.spec import NetworkSpec
from models.spec import ImageShape

if TYPE_CHECKING:
    from models.networks.song_unet.network import SongUNet


class SongUNetSpec(NetworkSpec):
    """A U-Net of residual blocks with concatenated skips: NCSN++, the network of SlimFlow.

    Source: Song et al., Score-based generative modeling through SDEs (arXiv 2011.13456),
    appendix H, in the configuration of SlimFlow (arXiv 2407.12718).
    """

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

    def check(self, image: ImageShape) -> None:
        level_heights(image.size, len(self.channel_multipliers))

    def build(self, image: ImageShape) -> "SongUNet":
        from models.networks.song_unet.network import SongUNet

        self.check(image)
        return SongUNet(self, image)
