"""Trains a small autoencoder, whose latents flows learn, on a data set."""

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from slimctl.jobs.base.artifacts import Autoencoder, Dataset
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, LatentSpace, check_flip
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slimctl.models.networks.autoencoder.network import Autoencoder as Runnable

MEASURED = 2000
"""Images whose codes tell the mean and the spread that latents are brought to 0 and 1 by."""
PIECE = 50


class TrainAutoencoder(TrainingSpec):
    """An `AutoencoderKL` of diffusers for images of one's own: reconstruction and divergence.

    Its latents have mean 0 and variance 1 in each channel, on the images that it was trained on.

    Source:
        Rombach et al., arXiv 2112.10752, appendix G, without its critic and perceptual distance.
    """

    data: Ref[Dataset]
    """Images to learn; their size has to be a multiple of 2 for each width but the first."""
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (32, 64)
    """Channels of each level; each after the first halves height and width."""
    layers: int = Field(default=1, ge=1, le=16)
    """Residual blocks of a level."""
    latent_channels: int = Field(default=4, ge=1, le=64)
    """Channels of the latents."""
    image_channels: int = Field(default=3, ge=1, le=64)
    """Channels of the images."""
    kl_weight: float = Field(default=1e-3, ge=0)
    """Weight of the divergence of a latent's numbers from unit Gaussians, beside the mean absolute
    error of pixels."""
    flip: bool | None = None
    """Whether to mirror every other image; null = where the data set declares flips valid."""

    def autoencoder(self, **more: Any) -> AutoencoderSpec:
        """What is trained, with further fields of its config."""
        levels = len(self.widths)
        config = {
            "in_channels": self.image_channels,
            "out_channels": self.image_channels,
            "block_out_channels": list(self.widths),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "layers_per_block": self.layers,
            "latent_channels": self.latent_channels,
            "norm_num_groups": math.gcd(32, *self.widths),
            "scaling_factor": 1.0,
        }
        return AutoencoderSpec(config=config | more)

    def run(self, context: JobContext) -> Autoencoder:
        from slimctl.jobs.objectives.train_autoencoder import Reconstruction
        from slimctl.jobs.storage.autoencoders import save_autoencoder
        from slimctl.jobs.training.ray_train import train_on_ray
        from slimctl.models.checkpoints.teacher import AutoencoderFile
        from slimctl.models.networks.autoencoder.training import AutoencoderTraining

        data = context.input(self.data)
        asked = AutoencoderTraining(autoencoder=self.autoencoder(), kl_weight=self.kl_weight)
        objective = Reconstruction(self, context.handles)
        trained = train_on_ray(context, self, asked, data.image, objective)
        prefix = "autoencoder."
        weights = {name.removeprefix(prefix): own for name, own in trained.weights.items()}
        plain = self.autoencoder().build()
        plain.load_state_dict(weights)
        spec = self.autoencoder(**self._scale(context, data, plain.eval()))
        return save_autoencoder(AutoencoderFile(spec, weights), context, spec.latents(data.image))

    def _scale(self, context: JobContext, data: Dataset, made: "Runnable") -> dict[str, Any]:
        """Mean and standard deviation of each channel of the codes."""
        import torch

        from slimctl.jobs.storage.tensors import image_batches
        from slimctl.models.pixels import to_float

        parts, seen = [], 0
        with torch.no_grad():
            for images in image_batches(context.store, data, PIECE):
                parts.append(made.encode(to_float(images)))
                seen += len(images)
                if seen >= MEASURED:
                    break
        codes = torch.cat(parts).double()
        std = codes.std(dim=(0, 2, 3)).clamp_min(1e-6)
        mean = codes.mean(dim=(0, 2, 3))
        return {"latents_mean": mean.tolist(), "latents_std": std.tolist()}

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["data"]
        check_flip(self.flip, known.flip_valid, self.data.job)
        spec = self.autoencoder()
        try:
            if known.image is not None:
                spec.latents(known.image)
        except ValueError as error:
            what, fix = what_and_fix(error)
            field = "image_channels" if "channels" in what else "widths"
            fix = fix if field == "widths" else f"set image_channels: {known.image.channels}"  # type: ignore[union-attr]
            raise FieldError(field, what, fix) from error
        return Facts(latents=LatentSpace(spec))
