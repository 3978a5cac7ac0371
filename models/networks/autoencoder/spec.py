"""An autoencoder of the package diffusers, described by its own config."""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from slimctl.models.networks.diffusers_unet.spec import NEEDS_DIFFUSERS
from slimctl.models.networks.size import NetworkSize
from slimctl.models.spec import ImageShape, Spec

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder


class AutoencoderSpec(Spec):
    """The autoencoder that a flow's latents are of; needs the extra `diffusers`."""

    model: Literal["AutoencoderKL", "AutoencoderTiny"] = "AutoencoderKL"
    """Its class in the package; the tiny one decodes the latents of a large one, faster."""
    config: dict[str, Any]
    """Its config.json; keys that begin with `_` are left out."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        channels: int = self.config.get("latent_channels", 4)
        return channels

    @property
    def image_channels(self) -> int:
        """Channels of the images."""
        channels: int = self.config.get("in_channels", 3)
        return channels

    @property
    def factor(self) -> int:
        """How many times smaller than an image its latents are, height and width."""
        tiny = self.model == "AutoencoderTiny"
        name, usual = ("decoder_block_out_channels", 4) if tiny else ("block_out_channels", 1)
        return int(2 ** (len(self.config.get(name, (64,) * usual)) - 1))

    def pixels(self, latents: ImageShape) -> ImageShape:
        """The images that latents are decoded to, of the same classes."""
        size = {"channels": self.image_channels, "size": latents.size * self.factor}
        return latents.model_copy(update=size)

    def latents(self, pixels: ImageShape) -> ImageShape:
        """The latents of images, of the same classes.

        Raises:
            ValueError: it takes other channels, or the size cannot be divided.
        """
        if pixels.channels != self.image_channels:
            raise ValueError(
                f"the autoencoder takes {self.image_channels} channels, the images have "
                f"{pixels.channels}\n  fix: set channels: {self.image_channels} at the data set"
            )
        if pixels.size % self.factor:
            raise ValueError(
                f"{pixels.size} px cannot be divided by {self.factor}, as the autoencoder does"
                f"\n  fix: use images whose size is a multiple of {self.factor}"
            )
        size = {"channels": self.latent_channels, "size": pixels.size // self.factor}
        return pixels.model_copy(update=size)

    def require_latents(self, image: ImageShape) -> None:
        """Raises ValueError if these cannot be its latents."""
        if self.latent_channels != image.channels:
            raise ValueError(
                f"has {self.latent_channels} latent channels, but {image.channels} are made"
                "\n  fix: give the autoencoder that the flow was trained with, or a smaller one "
                "for its latents"
            )

    def build(self) -> "Autoencoder":
        """Makes the autoencoder with freshly initialised weights.

        Raises:
            ValueError: the package is not installed.
        """
        from slimctl.models.networks.autoencoder.network import Autoencoder

        if find_spec("diffusers") is None:
            raise ValueError(NEEDS_DIFFUSERS)
        return Autoencoder(self)


def usual_autoencoder(channels: int) -> AutoencoderSpec:
    """The autoencoder of Stable Diffusion, for so many latent channels.

    Source: Rombach et al., arXiv 2112.10752, its KL autoencoder of factor 8.
    """
    config = {
        "latent_channels": channels,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    }
    return AutoencoderSpec(config=config)


@cache
def decoder_size(autoencoder: AutoencoderSpec, latents: ImageShape) -> NetworkSize:
    """Parameters of the decoder, and multiply-adds of decoding the latents of one image."""
    from slimctl.models.metrics.cost import count_decoder

    return count_decoder(autoencoder, latents)
