"""Reads an architecture off the names and shapes of a network in NVlabs/edm's naming.

Both of EDM's U-Nets and SlimFlow's ADM name a layer by side, height and place
(`enc.32x32_block0.conv0.weight`), which gives away everything but the dropout. Where several
tensors tell the same, the majority is believed, so that a damaged checkpoint is compared with the
architecture it was meant to have.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from slimctl.models.networks.layers import Resampling
from slimctl.models.networks.published_weights import Source, layer_sources, most_common
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
    taken = _sizes(state, r"enc\.\d+x\d+_conv\.weight", 1)
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
            _sizes(state, rf"(enc|dec)\.{height}x{height}_block\d+\.(norm1|conv0|conv1)\.bias"),
            f"the channels at height {height}",
        )
        for height in heights
    )
    embedding = most_common(
        _sizes(state, r"map_layer[01]\.bias|map_layer[01]\.weight"), "the width of its embedding"
    )
    stem = _sizes(state, rf"enc\.{size}x{size}_(conv|block0\.norm0)\.(weight|bias)")
    channels = _sizes(state, rf"enc\.{size}x{size}_conv\.weight", 1)
    channels += _sizes(state, rf"(out_conv|dec\.{size}x{size}_aux_conv)\.(weight|bias)")
    features = _sizes(state, r"map_layer0\.weight", 1) + _sizes(state, r"map_augment\.weight")
    return EDMLayout(
        image=ImageShape(
            channels=most_common(channels, "the channels of its images"),
            size=size,
            classes=max(_sizes(state, r"map_label\.weight", 1), default=0),
        ),
        stem=most_common(stem, "the channels of its first layer"),
        widths=widths,
        blocks=most_common(_blocks_a_level(blocks), "its blocks a level"),
        attention=tuple(height for height in heights if _attends(state, height)),
        features=tuple(features),
        embedding=embedding,
        augment=max(_sizes(state, r"map_augment\.weight", 1), default=0),
        resampling=_resampling(state),
    )


def attention_sources(ours: str, published: str) -> Iterator[tuple[str, Source]]:
    """The parameters of our attention `ours`, inside the published block `published`.

    The projections are published as 1x1 convolutions, the first with query, key and value
    interleaved.
    """
    yield from layer_sources(f"{ours}.norm", f"{published}.norm2")
    for parameter in ("weight", "bias"):
        yield f"{ours}.qkv.{parameter}", Source((f"{published}.qkv.{parameter}",), "interleaved")
        yield f"{ours}.out.{parameter}", Source((f"{published}.proj.{parameter}",), "pointwise")


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
    return bool(_sizes(state, rf"enc\.{height}x{height}_block\d+\.(norm2|qkv|proj)\.(weight|bias)"))


def _sizes(state: Mapping[str, Tensor], pattern: str, dimension: int = 0) -> list[int]:
    """Sizes along a dimension of the tensors whose whole name matches."""
    return [
        value.shape[dimension]
        for name, value in state.items()
        if re.fullmatch(pattern, name) and value.dim() > dimension
    ]


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
