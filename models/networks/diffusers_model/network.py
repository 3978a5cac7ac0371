"""The package's networks behind the signature that all networks here have."""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import torch
from torch import nn

from slimctl.models.conditions import Condition, Embedded
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.shapes import Float, Tensor
from slimctl.models.spec import ImageShape


class DiffusersModel(nn.Module):
    """A network of the package; of outputs for mean and variance the variance is left out."""

    def __init__(self, spec: DiffusersModelSpec, image: ImageShape) -> None:
        super().__init__()
        config = {name: value for name, value in spec.config.items() if not name.startswith("_")}
        if not spec.packed:
            config["sample_size"] = image.size
        cls: Any = getattr(diffusers, spec.model)
        made = cls.from_config(config)
        self.model: nn.Module = made
        self._call = CALLS[spec.model]
        self._spec = spec
        self._channels = image.channels
        self._convention = spec.convention
        self._timesteps = spec.timesteps
        self._guidance = spec.embedded_guidance
        _settle(made, spec.frequency_shift)

    @property
    def bottleneck(self) -> nn.Module:
        """The layer whose output sums up the image: a U-Net's middle, a transformer's middle block.

        Tokens of a transformer are (b, n, c); where it answers with several, the image's are last.
        """
        blocks: Any = getattr(self.model, "transformer_blocks", None)
        middle: Any = self.model.mid_block if blocks is None else blocks[len(blocks) // 2]
        layer: nn.Module = middle
        return layer

    @property
    def recomputable(self) -> list[nn.Module]:
        """The blocks whose activations can be computed again on the way back."""
        kinds = ("TransformerBlock", "ResnetBlock2D")
        return [part for part in self.modules() if type(part).__name__.endswith(kinds)]

    def forward(
        self, xt: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Condition = None
    ) -> Float[Tensor, "b c h w"]:
        """Evaluates the network at xt and t; a velocity but in the convention `timestep`."""
        told = t if self._convention == "timestep" else self._timesteps * (1.0 - t)
        answer = self._call(self.model, xt, told, label, self._guidance)
        answer = torch.narrow(answer, 1, 0, self._channels)
        return -answer if self._convention == "flow" else answer

    def example_text(self, batch: int, device: torch.device | str) -> Embedded | None:
        """Texts of the form that it takes, with numbers that mean nothing; None of classes."""
        width, config = self._spec.text_width, self._spec.config
        if width is None:
            return None
        tokens = TOKENS.get(self._spec.model, 77)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, device=device)

        pooled = config.get("pooled_projection_dim")
        extra = {"PixArtTransformer2DModel": 3}.get(self._spec.model)
        if config.get("addition_embed_type") == "text_time":
            extra = 6
            told = extra * int(config["addition_time_embed_dim"])
            pooled = int(config["projection_class_embeddings_input_dim"]) - told
        if self._spec.packed:
            pooled = pooled or 768
        return Embedded(
            zeros(tokens, width),
            torch.ones(batch, tokens, dtype=torch.int64, device=device) if extra == 3 else None,
            None if pooled is None else zeros(pooled),
            None if extra is None else zeros(extra) + 1.0,
        )


TOKENS: Mapping[str, int] = {
    "SD3Transformer2DModel": 333,
    "FluxTransformer2DModel": 512,
    "PixArtTransformer2DModel": 120,
}
"""Tokens of a prompt in the published pipelines; others 77."""
Call = Callable[[Any, Tensor, Tensor, Any, float | None], Tensor]
"""(network, points, what it is told of the time, condition, embedded guidance) -> its answer."""


def _dit(model: Any, x: Tensor, time: Tensor, label: Any, _: float | None) -> Tensor:
    answer: Tensor = model(x, time, class_labels=label, return_dict=False)[0]
    return answer


def _unet(model: Any, x: Tensor, time: Tensor, text: Any, _: float | None) -> Tensor:
    added = None
    if model.config.addition_embed_type is not None:
        added = {"text_embeds": text.pooled, "time_ids": text.extra}
    answer: Tensor = model(
        x,
        time,
        text.sequence,
        added_cond_kwargs=added,
        encoder_attention_mask=text.mask,
        return_dict=False,
    )[0]
    return answer


def _sd3(model: Any, x: Tensor, time: Tensor, text: Any, _: float | None) -> Tensor:
    answer: Tensor = model(x, text.sequence, text.pooled, time, return_dict=False)[0]
    return answer


def _pixart(model: Any, x: Tensor, time: Tensor, text: Any, _: float | None) -> Tensor:
    sizes = {"resolution": text.extra[:, :2], "aspect_ratio": text.extra[:, 2:]}
    answer: Tensor = model(
        x,
        encoder_hidden_states=text.sequence,
        timestep=time,
        added_cond_kwargs=sizes,
        encoder_attention_mask=text.mask,
        return_dict=False,
    )[0]
    return answer


def _flux(model: Any, x: Tensor, time: Tensor, text: Any, guidance: float | None) -> Tensor:
    """2 x 2 latents are one token, whose place the network is told as (0, row, column)."""
    b, c, h, w = x.shape
    tokens = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    rows, columns = (torch.arange(n // 2, device=x.device, dtype=x.dtype) for n in (h, w))
    places = torch.cartesian_prod(torch.zeros_like(rows[:1]), rows, columns)
    answer = model(
        hidden_states=tokens.reshape(b, (h // 2) * (w // 2), c * 4),
        encoder_hidden_states=text.sequence,
        pooled_projections=text.pooled,
        timestep=time,
        img_ids=places,
        txt_ids=places.new_zeros(text.sequence.shape[1], 3),
        guidance=None if guidance is None else torch.full_like(time, guidance),
        return_dict=False,
    )[0]
    grid = answer.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    whole: Tensor = grid.reshape(b, c, h, w)
    return whole


CALLS: Mapping[str, Call] = {
    "DiTTransformer2DModel": _dit,
    "UNet2DConditionModel": _unet,
    "SD3Transformer2DModel": _sd3,
    "PixArtTransformer2DModel": _pixart,
    "FluxTransformer2DModel": _flux,
}
"""How each class is called."""


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
