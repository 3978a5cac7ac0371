"""An autoencoder while it is trained: what a training loop calls is its loss."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.loss import AutoencoderLoss


class AutoencoderTraining(NetworkSpec):
    """The loss of an autoencoder as a network of (images, noise of a latent's shape)."""

    kind: Literal["autoencoder_loss"] = "autoencoder_loss"
    """Family of the network."""
    autoencoder: AutoencoderSpec
    """What is trained."""
    kl_weight: float = Field(ge=0)
    """Weight of the divergence of the codes from unit Gaussians."""

    def check(self, image: ImageShape) -> None:
        self.autoencoder.latents(image)

    def build(self, image: ImageShape) -> "AutoencoderLoss":
        from slimctl.models.networks.autoencoder.loss import AutoencoderLoss  # noqa: PLC0415

        self.check(image)
        return AutoencoderLoss(self)
