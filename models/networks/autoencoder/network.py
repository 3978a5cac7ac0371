"""The package's autoencoders with the scale that flows see their latents at."""

from typing import Any

import diffusers
import torch
from torch import nn

from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.shapes import Float, Tensor

DECODED_AT_ONCE = 8
"""Latents: what a decoder keeps of an image of 512 px on its way is 1 GB."""


class Autoencoder(nn.Module):
    """Images in [-1, 1] to latents of a variance near 1 and back.

    With the code z of the network, a scale s and a shift m, which its config has,

        latents = s (z - m)            z = latents / s + m

    or, where the config has a mean and a standard deviation of each channel of the code,

        latents = s (z - mean) / std   z = latents std / s + mean

    Source: Rombach et al., arXiv 2112.10752, appendix G (the scale); Esser et al., arXiv
    2403.03206 (the shift).
    """

    def __init__(self, spec: AutoencoderSpec) -> None:
        super().__init__()
        config = {name: value for name, value in spec.config.items() if not name.startswith("_")}
        cls: Any = getattr(diffusers, spec.model)
        self.model: Any = cls.from_config(config)
        self._draws = spec.model == "AutoencoderKL"
        self._scale = float(config.get("scaling_factor") or 1.0)
        mean = config.get("latents_mean") or [config.get("shift_factor") or 0.0]
        std = config.get("latents_std") or [1.0]
        self.mean: Tensor
        self.std: Tensor
        for name, values in (("mean", mean), ("std", std)):
            shaped = torch.tensor(values, dtype=torch.float32, device="cpu")[None, :, None, None]
            self.register_buffer(name, shaped, persistent=False)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k y x"]:
        """Images of latents, in [-1, 1] but not clipped."""
        code = latents * (self.std / self._scale) + self.mean
        images: Tensor = self.model.decode(code, return_dict=False)[0]
        return images

    def decode_all(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k y x"]:
        """The same for any number of them, a few at a time."""
        return torch.cat([self.decode(few) for few in torch.split(latents, DECODED_AT_ONCE)])

    def encode(self, images: Float[Tensor, "b k y x"]) -> Float[Tensor, "b c h w"]:
        """Latents of images in [-1, 1]: the mean of what the encoder says of them."""
        said = self.model.encode(images, return_dict=False)[0]
        code: Tensor = said.mode() if self._draws else said
        return (code - self.mean) * (self._scale / self.std)
