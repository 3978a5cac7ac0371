"""The package's network behind the signature that all networks here have."""

import torch
from diffusers import UNet2DModel
from torch import nn

from slimctl.models.networks.diffusers_unet.spec import DiffusersUNetSpec
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


class DiffusersUNet(nn.Module):
    """A `UNet2DModel`; of outputs for mean and variance the variance is left out."""

    def __init__(self, spec: DiffusersUNetSpec, image: ImageShape) -> None:
        super().__init__()
        config = {name: value for name, value in spec.config.items() if not name.startswith("_")}
        # A config needs no size, but the package asks for it.
        made = UNet2DModel.from_config(config | {"sample_size": image.size})
        self.unet: nn.Module = made
        self._channels = image.channels
        self._is_flow = spec.convention == "flow"
        self._timesteps = spec.timesteps

    @property
    def bottleneck(self) -> nn.Module:
        """The layer whose output sums up the image: the last one before the way up."""
        return self.unet.get_submodule("mid_block")

    @property
    def recomputable(self) -> list[nn.Module]:
        """The blocks whose activations can be computed again on the way back."""
        parts = self.unet.named_modules()
        lists = [part for name, part in parts if name.endswith((".resnets", ".attentions"))]
        return [block for blocks in lists for block in blocks.children()]

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Evaluates the network at xt and t; a velocity in the convention `flow`."""
        time = self._timesteps * (1.0 - t) if self._is_flow else t
        answer: Tensor = self.unet(xt, time, class_labels=label, return_dict=False)[0]
        answer = torch.narrow(answer, 1, 0, self._channels)
        return -answer if self._is_flow else answer
