"""Reads the weights of EDM's DDPM++ and NCSN++ (its `SongUNet`) into our network.

Attention stands inside the published blocks and beside ours: on the way down in every block of a
level that attends, on the way up in the last one.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from slimctl.models.networks.edm_layout import attention_sources, parameters, read_layout
from slimctl.models.networks.published_weights import (
    Source,
    layer_sources,
    most_common,
    rename,
    whole_ratio,
)
from slimctl.models.networks.song_unet.network import DownLevel, ResidualBlock, SongUNet, UpLevel
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

_LAYERS = {"norm_in": "norm0", "conv_in": "conv0", "shift": "affine"}
_LAYERS |= {"norm_out": "norm1", "conv_out": "conv1"}


def read_edm(state: Mapping[str, Tensor]) -> tuple[SongUNetSpec, ImageShape]:
    """The architecture of a state in EDM's naming, and its images.

    Raises:
        ValueError: the tensors tell of no such network, or of one with image skips.
    """
    if any("_aux_skip" in name or "_aux_up" in name for name in state):
        raise ValueError(
            "the checkpoint's encoder or decoder is of type 'skip', which this program does not "
            "have\n  fix: give a network with a standard or residual encoder"
        )
    layout = read_layout(state)
    channels = layout.stem
    # Only a damaged map_layer0 is no multiple of the channels.
    features = [width for width in layout.features if width % channels == 0] or [channels]
    spec = SongUNetSpec(
        channels=channels,
        channel_multipliers=tuple(whole_ratio(width, channels, "level") for width in layout.widths),
        blocks=layout.blocks,
        attention_resolutions=layout.attention,
        embedding_multiplier=whole_ratio(layout.embedding, channels, "embedding"),
        embedding="fourier" if "map_noise.freqs" in state else "positional",
        feature_multiplier=most_common(features, "the width of its features of time") // channels,
        time_scale=1.0,
        label_entry="features",
        augment=layout.augment,
        resampling=layout.resampling,
        encoder="residual" if any("_aux_residual" in name for name in state) else "standard",
    )
    return spec, layout.image


def from_edm(state: Mapping[str, Tensor], network: SongUNet, size: int) -> dict[str, Tensor]:
    """Renames a published state into one that `network` loads strictly.

    Args:
        state: Published name -> tensor; resampling filters are left out.
        network: The network to load into, which may be on the meta device; it is not changed.
        size: Height of its images, which is part of the published names.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names all of them.
    """
    return rename(parameters(state), sources(network, size), network)


def sources(network: SongUNet, size: int) -> dict[str, Source]:
    """Where each parameter of a network for images of `size` pixels comes from."""
    return dict(_sources(network, size))


def _sources(network: SongUNet, size: int) -> Iterator[tuple[str, Source]]:
    yield from layer_sources("embedding.time_in", "map_layer0")
    yield from layer_sources("embedding.time_out", "map_layer1")
    if network.embedding.fourier is not None:
        yield "embedding.fourier.frequencies", Source(("map_noise.freqs",))
    if network.embedding.label_in is not None:
        yield from layer_sources("embedding.label_in", "map_label")
    if network.embedding.augment is not None:
        yield from layer_sources("embedding.augment", "map_augment", ["weight"])
    yield from layer_sources("stem", f"enc.{size}x{size}_conv")
    yield from layer_sources("head_norm", f"dec.{size}x{size}_aux_norm")
    yield from layer_sources("head", f"dec.{size}x{size}_aux_conv")
    for index in range(len(network.pyramid)):
        height = size >> (index + 1)
        yield from layer_sources(f"pyramid.{index}.conv", f"enc.{height}x{height}_aux_residual")
    for ours, attention, published in _blocks(network, size):
        block = cast("ResidualBlock", network.get_submodule(ours))
        layers = _LAYERS if block.skip is None else _LAYERS | {"skip": "skip"}
        for mine, theirs in layers.items():
            yield from layer_sources(f"{ours}.{mine}", f"{published}.{theirs}")
        if attention:
            yield from attention_sources(attention, published)


def _blocks(network: SongUNet, size: int) -> Iterator[tuple[str, str, str]]:
    """Our name of each residual block, of the attention after it ("" = none), and the published."""
    last = len(network.down) - 1
    for level, down in enumerate(cast("Iterable[DownLevel]", network.down)):
        at = f"enc.{size >> level}x{size >> level}"
        for index in range(len(down.blocks)):
            attention = f"down.{level}.attention.{index}" if down.attention else ""
            yield f"down.{level}.blocks.{index}", attention, f"{at}_block{index}"
        if down.down is not None:
            yield f"down.{level}.down", "", f"enc.{size >> level + 1}x{size >> level + 1}_down"
    at = f"dec.{size >> last}x{size >> last}"
    yield "middle_in", "middle_attention" if network.middle_attention else "", f"{at}_in0"
    yield "middle_out", "", f"{at}_in1"
    for number, up in enumerate(cast("Iterable[UpLevel]", network.up)):
        height = size >> (last - number)
        at = f"dec.{height}x{height}"
        for index in range(len(up.blocks)):
            attends = up.attention is not None and index == len(up.blocks) - 1
            attention = f"up.{number}.attention" if attends else ""
            yield f"up.{number}.blocks.{index}", attention, f"{at}_block{index}"
        if up.up is not None:
            yield f"up.{number}.up", "", f"dec.{2 * height}x{2 * height}_up"
