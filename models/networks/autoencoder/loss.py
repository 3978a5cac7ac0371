"""The loss of an `AutoencoderTraining`."""

from typing import Any

from torch import nn

from slimctl.models.networks.autoencoder.training import AutoencoderTraining
from slimctl.models.shapes import Float, Tensor


class AutoencoderLoss(nn.Module):
    """|decode(z) - x| + w KL(q(z | x) || N(0, 1)), z drawn from q, means over all numbers.

    Source: Rombach et al., arXiv 2112.10752, appendix G, without its critic; the divergence is over
    the numbers of a latent, not their sum, so that w does not depend on the size.
    """

    def __init__(self, spec: AutoencoderTraining) -> None:
        super().__init__()
        self.autoencoder = spec.autoencoder.build()
        self._weight = spec.kl_weight

    def forward(
        self, images: Float[Tensor, "b k y x"], noise: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """The loss of each image."""
        model: Any = self.autoencoder.model
        code = model.encode(images, return_dict=False)[0]
        made = model.decode(code.mean + code.std * noise, return_dict=False)[0]
        error = (made - images).abs().flatten(1).mean(dim=1)
        divergence = 0.5 * (code.mean.square() + code.var - 1.0 - code.logvar)
        total: Tensor = error + self._weight * divergence.flatten(1).mean(dim=1)
        return total
