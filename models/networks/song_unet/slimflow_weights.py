"""Reads the weights of SlimFlow's own NCSN++ checkpoints into our network.

The published network is one flat list `all_modules` in order of execution, so the map is made
by walking our network in that order. All that does not fit is reported at once: a checkpoint
of another architecture must never load in part.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from models.networks.song_unet.blocks import Attention, ResidualBlock
from models.networks.song_unet.network import DownLevel, SongUNet, UpLevel
from models.shapes import Tensor

BUFFERS = frozenset({"sigmas"})
"""Tensors of a published checkpoint that are no parameters and that the velocity ignores."""


class _Source(NamedTuple):
    """Where one of our parameters comes from."""

    names: tuple[str, ...]
    """Published names; several are stacked along our first dimension."""
    transposed: bool
    """Whether the published matrices are (inputs, outputs)."""


def from_slimflow(state: Mapping[str, Tensor], network: SongUNet) -> dict[str, Tensor]:
    """Renames, transposes and stacks a published state into one that `network` loads strictly.

    Args:
        state: Name -> tensor of a published NCSN++, with or without DataParallel's `module.`.
        network: The network to load into, which may be on the meta device; it is not changed.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names all of them.
    """
    state = _without_prefix_and_buffers(state)
    sources = _sources(network)
    ours = dict(network.named_parameters())
    shapes = {
        name: _published_shape(ours[parameter].shape, source)
        for parameter, source in sources.items()
        for name in source.names
    }
    _require_fit(state, shapes, [name for name in ours if name not in sources])
    return {parameter: _assemble(state, source) for parameter, source in sources.items()}


def ema_state(state: Mapping[str, Tensor], shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names the averaged weights of a published checkpoint, which stores them as a bare list.

    Args:
        state: The checkpoint's `model`, in whose parameter order the averages stand.
        shadow: The checkpoint's `ema["shadow_params"]`.

    Raises:
        ValueError: the two do not have the same number of tensors or the same shapes.
    """
    state = _without_prefix_and_buffers(state)
    if [value.shape for value in state.values()] != [value.shape for value in shadow]:
        raise ValueError(
            f"the checkpoint's {len(shadow)} averaged weights are not those of its {len(state)} "
            "model weights\n  fix: give a checkpoint whose `model` and `ema` are of one network"
        )
    return dict(zip(state, shadow, strict=True))


def _without_prefix_and_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in named.items() if name not in BUFFERS}


def _sources(network: SongUNet) -> dict[str, _Source]:
    names = {module: name for name, module in network.named_modules()}
    return {
        f"{names[module]}.{parameter}": source
        for index, module in enumerate(_published_order(network))
        for parameter, source in _module_sources(module, f"all_modules.{index}")
    }


def _published_order(network: SongUNet) -> Iterator[nn.Module]:
    yield network.embedding.time_in
    yield network.embedding.time_out
    yield network.stem
    for down in cast("Iterable[DownLevel]", network.down):
        for index, block in enumerate(down.blocks):
            yield block
            if down.attention:
                yield down.attention[index]
        yield from _present(down.down)
    yield from _present(network.middle_in, network.middle_attention, network.middle_out)
    for up in cast("Iterable[UpLevel]", network.up):
        yield from _present(*up.blocks, up.attention, up.up)
    yield network.head_norm
    yield network.head


def _present(*modules: nn.Module | None) -> Iterator[nn.Module]:
    return (module for module in modules if module is not None)


def _module_sources(module: nn.Module, prefix: str) -> Iterator[tuple[str, _Source]]:
    if isinstance(module, Attention):
        yield from _plain({"norm": "GroupNorm_0"}, prefix)
        for ours, numbers in (("qkv", (0, 1, 2)), ("out", (3,))):
            for parameter, letter in (("weight", "W"), ("bias", "b")):
                published = tuple(f"{prefix}.NIN_{number}.{letter}" for number in numbers)
                yield f"{ours}.{parameter}", _Source(published, transposed=letter == "W")
    elif isinstance(module, ResidualBlock):
        layers = {"norm_in": "GroupNorm_0", "conv_in": "Conv_0", "shift": "Dense_0"}
        layers |= {"norm_out": "GroupNorm_1", "conv_out": "Conv_1"}
        yield from _plain(layers if module.skip is None else layers | {"skip": "Conv_2"}, prefix)
    else:
        for parameter in ("weight", "bias"):
            yield parameter, _Source((f"{prefix}.{parameter}",), transposed=False)


def _plain(layers: Mapping[str, str], prefix: str) -> Iterator[tuple[str, _Source]]:
    for ours, published in layers.items():
        for parameter in ("weight", "bias"):
            source = _Source((f"{prefix}.{published}.{parameter}",), transposed=False)
            yield f"{ours}.{parameter}", source


def _published_shape(ours: torch.Size, source: _Source) -> tuple[int, ...]:
    shape = (ours[0] // len(source.names), *ours[1:])
    return shape[::-1] if source.transposed else shape


def _assemble(state: Mapping[str, Tensor], source: _Source) -> Tensor:
    parts = [state[name].T if source.transposed else state[name] for name in source.names]
    return torch.cat(parts) if len(parts) > 1 else parts[0].contiguous()


def _require_fit(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], without: Iterable[str]
) -> None:
    """Raises ValueError unless the state has exactly the tensors of `shapes`."""
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
    mistakes += [f"{name} has no published counterpart" for name in without]
    if mistakes:
        raise ValueError(
            f"the checkpoint does not fit this network, {len(mistakes)} tensors differ:\n  "
            + "\n  ".join(mistakes)
            + "\n  fix: give the channels, channel_multipliers, blocks and attention_resolutions "
            "that the checkpoint was made with"
        )
