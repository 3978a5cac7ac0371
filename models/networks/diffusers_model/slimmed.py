"""The config of a slimmer network of diffusers."""

from collections.abc import Mapping, Sequence
from typing import Any

from slimctl.models.networks.slim import kept_layers, share

USUAL: Mapping[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {"num_attention_heads": 16, "attention_head_dim": 72},
    "SD3Transformer2DModel": {"num_attention_heads": 18, "attention_head_dim": 64},
    "PixArtTransformer2DModel": {"num_attention_heads": 16, "attention_head_dim": 72},
    "FluxTransformer2DModel": {"num_attention_heads": 24, "attention_head_dim": 128},
}
"""What a config that leaves them out means, by class of transformer."""
LAYERS = ("num_layers", "num_single_layers")
"""Fields of a transformer with a number of layers."""


def units_of(model: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Pieces that all widths are made of: a token, or of each level a group of its norms."""
    if model in USUAL:
        known = {**USUAL[model], **config}
        return (int(known["num_attention_heads"] * known["attention_head_dim"]),)
    return tuple(width // _groups(config) for width in _widths(config))


def _widths(config: Mapping[str, Any]) -> Sequence[int]:
    return config.get("block_out_channels") or (320, 640, 1280, 1280)


def _groups(config: Mapping[str, Any]) -> int:
    return int(config.get("norm_num_groups") or 1)


def slimmed(model: str, config: Mapping[str, Any], width: float, depth: float) -> dict[str, Any]:
    """The config with shares of its channels and layers.

    Of a transformer whole heads stay; of a U-Net all groups of its norms, each with fewer channels,
    and as many heads of each level as it can have.
    """
    change = _transformer if model in USUAL else _unet
    return {**config, **change({**USUAL.get(model, {}), **config}, width, depth)}


def _transformer(config: Mapping[str, Any], width: float, depth: float) -> dict[str, Any]:
    heads = share(config["num_attention_heads"], width)
    made: dict[str, Any] = {"num_attention_heads": heads}
    if "caption_projection_dim" in config:  # Stable Diffusion 3's text tokens are as wide
        made["caption_projection_dim"] = heads * config["attention_head_dim"]
    for name in LAYERS:
        if name in config:
            made[name] = share(config[name], depth)
    if config.get("dual_attention_layers"):
        kept = kept_layers(config["num_layers"], made["num_layers"])
        dual = set(config["dual_attention_layers"])
        made["dual_attention_layers"] = [at for at, layer in enumerate(kept) if layer in dual]
    return made


def _unet(config: Mapping[str, Any], width: float, depth: float) -> dict[str, Any]:
    groups = _groups(config)
    slim = [max(1, round(each * width / groups)) * groups for each in _widths(config)]
    made: dict[str, Any] = {"block_out_channels": slim}
    for name in ("num_attention_heads", "attention_head_dim"):
        if width < 1 and config.get(name) is not None:
            many = _for_each(config[name], slim)
            few = [_fitting(h, c, width) for h, c in zip(many, slim, strict=True)]
            made[name] = few if len(set(few)) > 1 else few[0]
    inner = config.get("transformer_layers_per_block", 1)
    outer = config.get("layers_per_block", 2)
    if max(_flat(inner)) > 1:
        made["transformer_layers_per_block"] = _shares(inner, depth)
    else:
        made["layers_per_block"] = _shares(outer, depth)
    return made


def _fitting(count: int, channels: int, width: float) -> int:
    """Heads of so many channels: as wide ones, else as many, else fewer."""
    if (count * width).is_integer() and channels % int(count * width) == 0:
        return int(count * width)
    return next(few for few in range(count, 0, -1) if channels % few == 0)


def _for_each(value: Any, levels: Sequence[int]) -> list[int]:
    return [int(value)] * len(levels) if isinstance(value, int) else [int(one) for one in value]


def _flat(value: Any) -> list[int]:
    if isinstance(value, int):
        return [value]
    return [number for one in value for number in _flat(one)]


def _shares(value: Any, part: float) -> Any:
    """A share of a number of layers, or of each of several."""
    return share(value, part) if isinstance(value, int) else [_shares(one, part) for one in value]
