"""An autoencoder of the package diffusers, described by its own config."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from slimctl.models.networks.diffusers_unet.spec import NEEDS_DIFFUSERS
from slimctl.models.spec import Spec

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder


class AutoencoderSpec(Spec):
    """The autoencoder that a flow's latents are of; needs the extra `diffusers`."""

    model: Literal["AutoencoderKL"] = "AutoencoderKL"
    """Its class in the package."""
    config: dict[str, Any]
    """Its config.json; keys that begin with `_` are left out."""

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        channels: int = self.config.get("latent_channels", 4)
        return channels

    @property
    def factor(self) -> int:
        """How many times smaller than an image its latents are, height and width."""
        return int(2 ** (len(self.config.get("block_out_channels", (64,))) - 1))

    def build(self) -> "Autoencoder":
        """Makes the autoencoder with freshly initialised weights.

        Raises:
            ValueError: the package is not installed.
        """
        from slimctl.models.networks.autoencoder.network import Autoencoder

        if find_spec("diffusers") is None:
            raise ValueError(NEEDS_DIFFUSERS)
        return Autoencoder(self)
