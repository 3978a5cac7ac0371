"""Renames the tensors of a published checkpoint into those of one of our networks.

A family says for each of its parameters where it comes from (`Source`); everything else is here.
All that does not fit is reported at once: a checkpoint of another architecture must never load in
part.
"""

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import nn

from slimctl.models.shapes import Tensor

Value = TypeVar("Value", bound=Hashable)

Layout = Literal["same", "transposed", "pointwise", "interleaved"]
"""How a published tensor is stored: as ours; as (inputs, outputs); as a 1x1 convolution; as a 1x1
convolution or bias whose outputs run over (channel, query/key/value), where ours run over
(query/key/value, channel)."""


class Source(NamedTuple):
    """Where one of our parameters comes from."""

    names: tuple[str, ...]
    """Published names; several are stacked along our first dimension."""
    layout: Layout = "same"
    """How each of them is stored."""


def sizes_of(state: Mapping[str, Tensor], pattern: str, dimension: int = 0) -> list[int]:
    """Sizes along a dimension of the tensors whose whole name matches."""
    return [
        value.shape[dimension]
        for name, value in state.items()
        if re.fullmatch(pattern, name) and value.dim() > dimension
    ]


def layer_sources(
    ours: str, published: str, parameters: Iterable[str] = ("weight", "bias")
) -> Iterable[tuple[str, Source]]:
    """Our parameters of a layer that is stored as ours is."""
    return [(f"{ours}.{name}", Source((f"{published}.{name}",))) for name in parameters]


def rename(
    state: Mapping[str, Tensor], sources: Mapping[str, Source], network: nn.Module
) -> dict[str, Tensor]:
    """The state under our names and in our layout, ready for `network.load_state_dict`.

    The network may be on the meta device; it is not changed.

    Raises:
        ValueError: as `require_fit`.
    """
    require_fit(state, sources, network)
    return {name: _assemble(state, source) for name, source in sources.items()}


def require_fit(
    state: Mapping[str, Tensor], sources: Mapping[str, Source], network: nn.Module
) -> None:
    """Raises ValueError, listing every tensor that differs, unless the state fills the network."""
    mistakes = differences(state, sources, network)
    if mistakes:
        raise misfit(mistakes)


def same_names(network: nn.Module) -> dict[str, Source]:
    """The sources of a network whose tensors are stored as they are here."""
    return {name: Source((name,)) for name in network.state_dict()}


def differences(
    state: Mapping[str, Tensor], sources: Mapping[str, Source], network: nn.Module
) -> list[str]:
    """What keeps a state from filling the network: each tensor that differs, in words."""
    ours = network.state_dict()
    shapes = {
        name: _published_shape(ours[parameter].shape, source)
        for parameter, source in sources.items()
        if parameter in ours
        for name in source.names
    }
    mistakes = [f"missing {name} {shape}" for name, shape in shapes.items() if name not in state]
    mistakes += [
        f"misshapen {name} {tuple(value.shape)}, wanted {shapes[name]}"
        for name, value in state.items()
        if name in shapes and tuple(value.shape) != shapes[name]
    ]
    mistakes += [
        f"unexpected {name} {tuple(value.shape)}"
        for name, value in state.items()
        if name not in shapes
    ]
    mistakes += [f"{name} has no published counterpart" for name in ours if name not in sources]
    return mistakes


def misfit(mistakes: Collection[str]) -> ValueError:
    """The error that lists what keeps a checkpoint from fitting a network."""
    return ValueError(
        f"the checkpoint does not fit this network, {len(mistakes)} tensors differ:\n  "
        + "\n  ".join(mistakes)
        + "\n  fix: give the channels, channel_multipliers, blocks and attention_resolutions "
        "that the checkpoint was made with, or an undamaged checkpoint"
    )


def named_averages(state: Mapping[str, Tensor], shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the averaged weights of a published checkpoint, which stores them as a bare list.

    Raises:
        ValueError: the two do not have the same number of tensors or the same shapes.
    """
    if len(state) != len(shadow):
        raise ValueError(
            f"the checkpoint's {len(shadow)} averaged weights are not those of its {len(state)} "
            "model weights\n  fix: give a checkpoint whose `model` and `ema` are of one network"
        )
    averages = dict(zip(state, shadow, strict=True))
    mistakes = [
        f"misshapen average of {name} {tuple(value.shape)}, wanted {tuple(state[name].shape)}"
        for name, value in averages.items()
        if value.shape != state[name].shape
    ]
    if mistakes:
        raise misfit(mistakes)
    return averages


def most_common(values: Iterable[Value], what: str) -> Value:
    """The value that most tensors of a checkpoint agree on, so that one bad tensor misleads no-one.

    Raises:
        ValueError: there are no values; `what` says of what.
    """
    counted = Counter(values).most_common(1)
    if not counted:
        raise ValueError(
            f"the checkpoint has no tensor that tells {what}"
            "\n  fix: give an undamaged checkpoint of a network that this program knows"
        )
    return counted[0][0]


def whole_ratio(width: int, channels: int, what: str) -> int:
    """Width / channels; raises ValueError if that is no whole number >= 1."""
    if width < channels or width % channels:
        raise ValueError(
            f"the checkpoint's {what} has {width} channels, no multiple of the network's {channels}"
            "\n  fix: give an undamaged checkpoint of a network that this program knows"
        )
    return width // channels


def _published_shape(ours: torch.Size, source: Source) -> tuple[int, ...]:
    shape = (ours[0] // len(source.names), *ours[1:])
    if source.layout == "transposed":
        return shape[::-1]
    is_matrix = len(shape) == 2
    return (*shape, 1, 1) if is_matrix and source.layout in ("pointwise", "interleaved") else shape


def _assemble(state: Mapping[str, Tensor], source: Source) -> Tensor:
    parts = [_relaid(state[name], source.layout) for name in source.names]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _relaid(value: Tensor, layout: Layout) -> Tensor:
    """The tensor in our layout; each layout ends in a contiguous tensor."""
    if layout == "transposed":
        value = value.T
    elif layout == "pointwise":
        value = value.flatten(1) if value.dim() > 1 else value
    elif layout == "interleaved":
        rows = value.flatten(1) if value.dim() > 1 else value
        value = rows.reshape(-1, 3, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)
    return value.contiguous()
