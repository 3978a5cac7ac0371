"""A model as a pipeline of diffusers. Needs the extra `diffusers`.

from slimctl.models.diffusers_pipeline import SlimPipeline
images = SlimPipeline.from_pretrained(FOLDER)(batch_size=4, class_label=3, seed=0).images
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from slimctl.models.checkpoints.model_format import ModelDescription, flow_of
from slimctl.models.flows.flow import Flow
from slimctl.models.pixels import to_uint8
from slimctl.models.sampling import Sampler

LOADER = """\
# The pipeline of this folder; it comes with slimctl (`pip install slimctl[diffusers]`).
from slimctl.models.diffusers_pipeline import SlimPipeline  # noqa: F401
"""


class SlimNetworks(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The networks of a model with what is known of it, as diffusers stores it."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        known = ModelDescription.model_validate(description)
        self.networks = nn.ModuleList([one.network.build(known.image) for one in known.members])
        self.autoencoder = None if known.autoencoder is None else known.autoencoder.build()

    def flow(self) -> Flow:
        """The velocity that the networks stand for, with what decodes its latents."""
        known = ModelDescription.model_validate(self.config.description)
        flow = flow_of(known, self.networks, self.device)
        flow.autoencoder = self.autoencoder
        return flow


class SlimPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Draws images of a model: in one step, or by the solver that the folder names."""

    def __init__(self, networks: SlimNetworks) -> None:
        super().__init__()
        self.register_modules(networks=networks)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        class_label: int | None = None,
        seed: int = 0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draws images.

        Args:
            batch_size: how many.
            class_label: class of every image; None = the data's mix.
            seed: of noise and labels: the images that `slimctl sample` draws with it.
            generator: draws the noise instead, as other pipelines of diffusers do.
            output_type: `pil`, `np` (uint8 (B, H, W, C)) or `pt` (float (B, C, H, W), not clipped).
            return_dict: whether to wrap the images.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple of them.

        Raises:
            ValueError: no such class or type of output.
        """
        known = ModelDescription.model_validate(self.networks.config.description)
        sampler = Sampler(self.networks.flow(), known.solver, known.label_counts, self.device)
        if class_label is not None and class_label not in sampler.classes():
            raise ValueError(f"there is no class {class_label}; there are {sampler.classes()}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}, not pil, np or pt")
        index = torch.arange(batch_size, device=self.device)
        label = sampler.labels(seed, index)
        if label is not None and class_label is not None:
            label = torch.full_like(label, class_label)
        noise = sampler.noise(seed, index)
        if generator is not None:
            drawn = torch.randn(noise.shape, generator=generator, device=generator.device)
            noise = drawn.to(self.device)
        images = _as(output_type, sampler.generate(noise, label)[0])
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _as(output_type: str, images: Tensor) -> Any:
    if output_type == "pt":
        return images
    pixels = to_uint8(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    if output_type == "np":
        return pixels
    return [Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one) for one in pixels]


def write_diffusers(
    folder: Path,
    description: ModelDescription,
    weights: list[dict[str, Tensor]],
    autoencoder: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a folder that `DiffusionPipeline.from_pretrained` opens; as `write_model_folder`."""
    networks = SlimNetworks(description=description.model_dump(mode="json"))
    for network, tensors in zip(networks.networks, weights, strict=True):
        network.load_state_dict(tensors)
    if networks.autoencoder is not None:
        networks.autoencoder.load_state_dict(autoencoder)
    SlimPipeline(networks.eval()).save_pretrained(str(folder))
    (folder / "pipeline.py").write_text(LOADER)
