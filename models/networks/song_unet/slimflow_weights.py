"""Reads the weights of SlimFlow's own NCSN++ checkpoints into our network.

The published network is one flat list `all_modules` in order of execution, so the map is made by
walking our network in that order.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from torch import nn

from slimctl.models.networks.published_weights import Source, layer_sources, rename, without_prefix
from slimctl.models.networks.song_unet.blocks import Attention, ResidualBlock
from slimctl.models.networks.song_unet.network import DownLevel, SongUNet, UpLevel
from slimctl.models.shapes import Tensor

BUFFERS = frozenset({"sigmas"})
"""Tensors of a published checkpoint that are no parameters and that the velocity ignores."""


def parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state without DataParallel's prefix and without buffers."""
    named = without_prefix(state, "module.")
    return {name: value for name, value in named.items() if name not in BUFFERS}


def from_slimflow(state: Mapping[str, Tensor], network: SongUNet) -> dict[str, Tensor]:
    """Renames, transposes and stacks a published state into one that `network` loads strictly.

    Args:
        state: Name -> tensor of a published NCSN++, with or without DataParallel's `module.`.
        network: The network to load into, which may be on the meta device; it is not changed.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names all of them.
    """
    return rename(parameters(state), sources(network), network)


def sources(network: SongUNet) -> dict[str, Source]:
    """Where each parameter of a network comes from."""
    names = {module: name for name, module in network.named_modules()}
    return {
        parameter: source
        for index, module in enumerate(_published_order(network))
        for parameter, source in _module_sources(module, names[module], f"all_modules.{index}")
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


def _module_sources(module: nn.Module, ours: str, published: str) -> Iterator[tuple[str, Source]]:
    if isinstance(module, Attention):
        yield from layer_sources(f"{ours}.norm", f"{published}.GroupNorm_0")
        for layer, numbers in (("qkv", (0, 1, 2)), ("out", (3,))):
            for parameter, letter in (("weight", "W"), ("bias", "b")):
                names = tuple(f"{published}.NIN_{number}.{letter}" for number in numbers)
                source = Source(names, "transposed" if letter == "W" else "same")
                yield f"{ours}.{layer}.{parameter}", source
    elif isinstance(module, ResidualBlock):
        layers = {"norm_in": "GroupNorm_0", "conv_in": "Conv_0", "shift": "Dense_0"}
        layers |= {"norm_out": "GroupNorm_1", "conv_out": "Conv_1"}
        for mine, theirs in (layers | ({"skip": "Conv_2"} if module.skip else {})).items():
            yield from layer_sources(f"{ours}.{mine}", f"{published}.{theirs}")
    else:
        yield from layer_sources(ours, published)
