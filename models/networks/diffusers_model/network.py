"""The package's networks behind the signature that all networks here have."""

from typing import Any

import diffusers
import torch
from torch import nn

from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


class DiffusersModel(nn.Module):
    """A network of the package; of outputs for mean and variance the variance is left out."""

    def __init__(self, spec: DiffusersModelSpec, image: ImageShape) -> None:
        super().__init__()
        config = {name: value for name, value in spec.config.items() if not name.startswith("_")}
        cls: Any = getattr(diffusers, spec.model)
        made = cls.from_config(config | {"sample_size": image.size})
        self.model: nn.Module = made
        self._channels = image.channels
        self._is_flow = spec.convention == "flow"
        self._timesteps = spec.timesteps
        _settle(made, spec.frequency_shift)

    def forward(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Evaluates the network at xt and t; a velocity in the convention `flow`."""
        time = self._timesteps * (1.0 - t) if self._is_flow else t
        answer: Tensor = self.model(xt, time, class_labels=label, return_dict=False)[0]
        answer = torch.narrow(answer, 1, 0, self._channels)
        return -answer if self._is_flow else answer


def _settle(model: nn.Module, frequency_shift: float | None) -> None:
    """Makes a network the same in training as in use, and its embedding of the time as asked.

    The package drops labels in training by torch's global generator, which no resumed training
    could repeat: whoever wants labels dropped gives the class that stands for none.
    """
    for module in model.modules():
        if hasattr(module, "dropout_prob"):
            module.dropout_prob = 0.0  # type: ignore[assignment]
        if frequency_shift is not None and hasattr(module, "downscale_freq_shift"):
            module.downscale_freq_shift = frequency_shift  # type: ignore[assignment]
