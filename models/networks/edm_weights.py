"""Reads networks in NVlabs/edm's naming: EDM's DDPM++ and NCSN++, its ADM, and SlimFlow's ADM.

A layer is named by side, height and place (`enc.32x32_block0.conv0.weight`), which gives away
everything of the architecture but the dropout. Where several tensors tell the same, the majority is
believed, so that a damaged checkpoint is compared with the architecture it was meant to have.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch

from slimctl.models.networks.adm.network import ADM
from slimctl.models.networks.adm.network import DownLevel as ADMDownLevel
from slimctl.models.networks.adm.network import ResidualBlock as ADMBlock
from slimctl.models.networks.adm.network import UpLevel as ADMUpLevel
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.layers import Resampling
from slimctl.models.networks.published_weights import (
    Source,
    layer_sources,
    most_common,
    rename,
    sizes_of,
    whole_ratio,
)
from slimctl.models.networks.song_unet.network import DownLevel, ResidualBlock, SongUNet, UpLevel
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

FILTER = ".resample_filter"
"""End of the name of a buffer with the filter of a resampling layer, normalised to sum 1."""
_BLOCK = re.compile(r"(enc|dec)\.(\d+)x\2_block(\d+)\..+")


@dataclass(frozen=True)
class EDMLayout:
    """What the tensors of a network say about its architecture."""

    image: ImageShape
    """Image size and channels, and number of classes."""
    stem: int
    """Channels of the first convolution."""
    widths: tuple[int, ...]
    """Channels of each level, from the largest height."""
    blocks: int
    """Residual blocks a level on the way down."""
    attention: tuple[int, ...]
    """Heights of the levels with attention on the way down."""
    features: tuple[int, ...]
    """Width of the features of time, as each tensor that tells it says; () if there is none."""
    embedding: int
    """Width of the embedding."""
    augment: int
    """Width of the augmentation labels; 0 = none."""
    resampling: Resampling
    """Filter of the resampling layers."""


def parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without resampling filters, which are no parameters."""
    return {name: value for name, value in state.items() if not name.endswith(FILTER)}


def mean_only(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state without the second half of the outputs, the variances, which no flow needs."""
    taken = sizes_of(state, r"enc\.\d+x\d+_conv\.weight", 1)
    heads = re.compile(r"(out_conv|dec\.\d+x\d+_aux_conv)\.(weight|bias)")
    return {
        name: value[: len(value) // 2]
        if heads.fullmatch(name) and value.dim() and [len(value)] == [2 * each for each in taken]
        else value
        for name, value in state.items()
    }


def read_layout(state: Mapping[str, Tensor]) -> EDMLayout:
    """The architecture of a state in EDM's naming.

    Raises:
        ValueError: the tensors tell of no such network, or of one with another resampling.
    """
    blocks = _block_names(state)
    heights = sorted({height for _, height, _ in blocks}, reverse=True)
    size = most_common(heights[:1], "the size of its images")
    widths = tuple(
        most_common(
            sizes_of(state, rf"(enc|dec)\.{height}x{height}_block\d+\.(norm1|conv0|conv1)\.bias"),
            f"the channels at height {height}",
        )
        for height in heights
    )
    embedding = most_common(
        sizes_of(state, r"map_layer[01]\.bias|map_layer[01]\.weight"), "the width of its embedding"
    )
    stem = sizes_of(state, rf"enc\.{size}x{size}_(conv|block0\.norm0)\.(weight|bias)")
    channels = sizes_of(state, rf"enc\.{size}x{size}_conv\.weight", 1)
    channels += sizes_of(state, rf"(out_conv|dec\.{size}x{size}_aux_conv)\.(weight|bias)")
    features = sizes_of(state, r"map_layer0\.weight", 1) + sizes_of(state, r"map_augment\.weight")
    return EDMLayout(
        image=ImageShape(
            channels=most_common(channels, "the channels of its images"),
            size=size,
            classes=max(sizes_of(state, r"map_label\.weight", 1), default=0),
        ),
        stem=most_common(stem, "the channels of its first layer"),
        widths=widths,
        blocks=most_common(_blocks_a_level(blocks), "its blocks a level"),
        attention=tuple(height for height in heights if _attends(state, height)),
        features=tuple(features),
        embedding=embedding,
        augment=max(sizes_of(state, r"map_augment\.weight", 1), default=0),
        resampling=_resampling(state),
    )


def read_song_unet(state: Mapping[str, Tensor]) -> tuple[SongUNetSpec, ImageShape]:
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


def read_adm(state: Mapping[str, Tensor], time_scale: float) -> tuple[ADMSpec, ImageShape]:
    """The architecture of a state, and its images.

    time_scale is 999 in SlimFlow's networks, 1 in EDM's.

    Raises:
        ValueError: the tensors tell of no ADM.
    """
    layout = read_layout(state)
    if layout.resampling != "box":
        raise ValueError(
            "the checkpoint's ADM resamples with [1, 3, 3, 1], which this program's ADM does not"
            "\n  fix: give a network with the published filter [1, 1]"
        )
    # The last two judge only a checkpoint without a good map_layer0; they hold for published ones.
    votes = (*layout.features, layout.embedding // 4, math.gcd(*layout.widths))
    channels = most_common(votes, "its channels")
    spec = ADMSpec(
        channels=channels,
        channel_multipliers=tuple(whole_ratio(width, channels, "level") for width in layout.widths),
        blocks=layout.blocks,
        attention_resolutions=layout.attention,
        embedding_multiplier=whole_ratio(layout.embedding, channels, "embedding"),
        time_scale=time_scale,
        augment=layout.augment,
    )
    return spec, layout.image


def from_edm(state: Mapping[str, Tensor], network: SongUNet | ADM, size: int) -> dict[str, Tensor]:
    """Renames a published state into one that `network` loads strictly.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names all of them.
    """
    return rename(parameters(state), sources(network, size), network)


def sources(network: SongUNet | ADM, size: int) -> dict[str, Source]:
    """Where each parameter of a network for images of `size` pixels comes from."""
    return dict(_sources(network, size))


def _sources(network: SongUNet | ADM, size: int) -> Iterator[tuple[str, Source]]:
    yield from layer_sources("embedding.time_in", "map_layer0")
    yield from layer_sources("embedding.time_out", "map_layer1")
    if isinstance(network, ADM):
        if network.embedding.label is not None:
            yield "embedding.label.weight", Source(("map_label.weight",), "transposed")
        out, blocks = "out_", _adm_blocks(network, size)
    else:
        if network.embedding.fourier is not None:
            yield "embedding.fourier.frequencies", Source(("map_noise.freqs",))
        if network.embedding.label_in is not None:
            yield from layer_sources("embedding.label_in", "map_label")
        out, blocks = f"dec.{size}x{size}_aux_", _song_unet_blocks(network, size)
    if network.embedding.augment is not None:
        yield from layer_sources("embedding.augment", "map_augment", ["weight"])
    yield from layer_sources("stem", f"enc.{size}x{size}_conv")
    yield from layer_sources("head_norm", f"{out}norm")
    yield from layer_sources("head", f"{out}conv")
    for index in range(len(network.pyramid) if isinstance(network, SongUNet) else 0):
        height = size >> (index + 1)
        yield from layer_sources(f"pyramid.{index}.conv", f"enc.{height}x{height}_aux_residual")
    for ours, attention, published in blocks:
        yield from _block_sources(network, ours, published)
        if attention:
            yield from _attention_sources(attention, published)


def _block_sources(
    network: SongUNet | ADM, ours: str, published: str
) -> Iterator[tuple[str, Source]]:
    block = cast("ResidualBlock | ADMBlock", network.get_submodule(ours))
    shift = "affine" if isinstance(network, ADM) else "shift"
    layers = {"norm_in": "norm0", "conv_in": "conv0", shift: "affine", "norm_out": "norm1"}
    layers |= {"conv_out": "conv1"} if block.skip is None else {"conv_out": "conv1", "skip": "skip"}
    for mine, theirs in layers.items():
        yield from layer_sources(f"{ours}.{mine}", f"{published}.{theirs}")


def _attention_sources(ours: str, published: str) -> Iterator[tuple[str, Source]]:
    """The parameters of our attention `ours`, inside the published block `published`.

    The projections are published as 1x1 convolutions, the first with query, key and value
    interleaved.
    """
    yield from layer_sources(f"{ours}.norm", f"{published}.norm2")
    for parameter in ("weight", "bias"):
        yield f"{ours}.qkv.{parameter}", Source((f"{published}.qkv.{parameter}",), "interleaved")
        yield f"{ours}.out.{parameter}", Source((f"{published}.proj.{parameter}",), "pointwise")


def _song_unet_blocks(network: SongUNet, size: int) -> Iterator[tuple[str, str, str]]:
    """Our name of each residual block, of its attention ("" = none), and the published name.

    Attention stands inside the published blocks and beside ours: on the way down in every block
    of a level that attends, on the way up in the last one.
    """
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


def _adm_blocks(network: ADM, size: int) -> Iterator[tuple[str, str, str]]:
    """The same of an ADM, whose attention stands inside our blocks as well."""
    last = len(network.down) - 1
    names: list[tuple[str, str]] = []
    for level, down in enumerate(cast("Iterable[ADMDownLevel]", network.down)):
        at = f"enc.{size >> level}x{size >> level}"
        names += [(f"down.{level}.down", f"{at}_down")] if level > 0 else []
        blocks = range(len(down.blocks))
        names += [(f"down.{level}.blocks.{index}", f"{at}_block{index}") for index in blocks]
    names.append(("middle_in", f"dec.{size >> last}x{size >> last}_in0"))
    names.append(("middle_out", f"dec.{size >> last}x{size >> last}_in1"))
    for number, up in enumerate(cast("Iterable[ADMUpLevel]", network.up)):
        at = f"dec.{size >> (last - number)}x{size >> (last - number)}"
        names += [(f"up.{number}.up", f"{at}_up")] if number > 0 else []
        blocks = range(len(up.blocks))
        names += [(f"up.{number}.blocks.{index}", f"{at}_block{index}") for index in blocks]
    for ours, published in names:
        block = cast("ADMBlock", network.get_submodule(ours))
        yield ours, f"{ours}.attention" if block.attention is not None else "", published


def _block_names(state: Mapping[str, Tensor]) -> set[tuple[str, int, int]]:
    """Side, height and number of each residual block that some tensor belongs to."""
    matches = (_BLOCK.fullmatch(name) for name in state)
    return {(match[1], int(match[2]), int(match[3])) for match in matches if match}


def _blocks_a_level(blocks: set[tuple[str, int, int]]) -> list[int]:
    """What each level says; on the way up it has one block more."""
    levels = {(side, height) for side, height, _ in blocks}
    return [
        sum(block[:2] == (side, height) for block in blocks) - (side == "dec")
        for side, height in sorted(levels)
    ]


def _attends(state: Mapping[str, Tensor], height: int) -> bool:
    return bool(
        sizes_of(state, rf"enc\.{height}x{height}_block\d+\.(norm2|qkv|proj)\.(weight|bias)")
    )


def _resampling(state: Mapping[str, Tensor]) -> Resampling:
    """The one filter of all resampling layers; box if there are none."""
    found = {_filter_kind(value) for name, value in state.items() if name.endswith(FILTER)}
    if len(found) > 1 or None in found:
        raise ValueError(
            "the checkpoint resamples with other filters than [1, 1] or [1, 3, 3, 1]"
            "\n  fix: give a network that this program knows"
        )
    return found.pop() or "box" if found else "box"


def _filter_kind(value: Tensor) -> Resampling | None:
    known: dict[Resampling, list[float]] = {"box": [1, 1], "binomial": [1, 3, 3, 1]}
    for kind, weights in known.items():
        line = torch.tensor(weights) / sum(weights)
        grid = torch.outer(line, line)[None, None]
        if value.shape == grid.shape and torch.allclose(value.float(), grid):
            return kind
    return None
