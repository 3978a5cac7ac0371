"""Reads an architecture off the tensors of SlimFlow's and RectifiedFlow's NCSN++ checkpoints.

The published list of modules names no levels, but a residual block that keeps its channels has a
convolution on its skip only if it resamples: the first one ends the first level, and the channels
of every level's first block follow. The size of the images is in no tensor; see `image_size`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from slimctl.models.networks.published_weights import most_common, whole_ratio
from slimctl.models.networks.pyramid import level_heights
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

_MODULE = re.compile(r"all_modules\.(\d+)\.(.+)")
PUBLISHED_ATTENTION = 16
"""Height in pixels of the level with attention in all published networks."""
PUBLISHED_SIZE = 32
"""Image size of most published networks, where the tensors leave a choice."""


class _Block(NamedTuple):
    inputs: int
    outputs: int
    resamples: bool
    attends: bool
    """Whether attention follows."""


def read_slimflow(
    state: Mapping[str, Tensor],
    size: int | None = None,
    attention_resolutions: Sequence[int] | None = None,
) -> tuple[SongUNetSpec, ImageShape, "ImageSize | None"]:
    """The architecture of a published state, its images, and how their size is known if not given.

    Args:
        state: Name -> tensor, without DataParallel's prefix and without buffers.
        size: Image size in pixels; None = what `image_size` finds.
        attention_resolutions: What the network was made with; None = 16 and whatever else attends.

    Raises:
        ValueError: the tensors tell of no such network.
    """
    modules = _modules(state)
    if "W" in modules.get(0, {}):
        raise ValueError(
            "the checkpoint's network embeds time by random frequencies, as RectifiedFlow's for "
            "256 x 256 px do, which this program does not read"
            "\n  fix: give a network with positional embedding"
        )
    stem = modules.get(2, {})
    channels = most_common(
        [*_sizes(stem, "weight"), *_sizes(stem, "bias"), *_sizes(modules.get(0, {}), "weight", 1)],
        "its channels",
    )
    widths, blocks, attends = _levels(_blocks(modules))
    embedding = most_common(
        [size for number in (0, 1) for size in _sizes(modules.get(number, {}), "weight|bias")],
        "the width of its embedding",
    )
    found = None if size else image_size(attends, attention_resolutions)
    size = found.size if found else size or PUBLISHED_SIZE
    heights = level_heights(size, len(widths))
    head = modules[max(modules)]
    spec = SongUNetSpec(
        channels=channels,
        channel_multipliers=tuple(whole_ratio(width, channels, "level") for width in widths),
        blocks=blocks,
        attention_resolutions=tuple(
            height for height, on in zip(heights, attends, strict=True) if on
        ),
        embedding_multiplier=whole_ratio(embedding, channels, "embedding"),
    )
    image_channels = [*_sizes(stem, "weight", 1), *_sizes(head, "weight|bias")]
    image = ImageShape(
        channels=most_common(image_channels, "the channels of its images"), size=size
    )
    return spec, image, found


class ImageSize(NamedTuple):
    """An image size that no tensor tells."""

    size: int
    is_certain: bool
    """Whether attention leaves only this one."""
    words: str
    """How it was found."""


def image_size(attends: Sequence[bool], resolutions: Sequence[int] | None = None) -> ImageSize:
    """The likeliest image size of a network, given which of its levels attend.

    Published networks attend at 16 px, so one attending level tells the size: 32 px if it is the
    second. With several, or none, there is a choice, and 32 px is taken if it is among it, then
    the smallest above. The velocity is the same for any choice.
    """
    wanted = resolutions or (PUBLISHED_ATTENTION,)
    sizes = {
        height << level
        for height in wanted
        for level, on in enumerate(attends)
        if on and (resolutions is None or _levels_fit(height << level, attends, resolutions))
    }
    above = [size for size in sorted(sizes) if size >= PUBLISHED_SIZE]
    size = (above or sorted(sizes, reverse=True) or [PUBLISHED_SIZE])[0]
    levels = [str(level + 1) for level, on in enumerate(attends) if on]
    has = f"attention at level {' and '.join(levels)}" if levels else "no attention"
    words = f"no tensor tells the size of the images; {has} of {len(attends)} makes it {size} px"
    return ImageSize(size, len(sizes) == 1, words)


def _levels_fit(size: int, attends: Sequence[bool], resolutions: Sequence[int]) -> bool:
    return all((size >> level in resolutions) == on for level, on in enumerate(attends))


def _modules(state: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Number of each module in the published list -> its tensors."""
    modules: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        match = _MODULE.fullmatch(name)
        if match:
            modules.setdefault(int(match[1]), {})[match[2]] = value
    return dict(sorted(modules.items()))


def _blocks(modules: Mapping[int, Mapping[str, Tensor]]) -> list[_Block]:
    """The residual blocks in order of execution."""
    blocks: list[_Block] = []
    for number, tensors in modules.items():
        if any(name.startswith("NIN_") for name in tensors) and blocks:
            blocks[-1] = blocks[-1]._replace(attends=True)
        elif any(name.startswith(("Conv_0", "Conv_1", "Dense_0")) for name in tensors):
            inputs = [*_sizes(tensors, r"GroupNorm_0\.\w+"), *_sizes(tensors, r"Conv_0\.weight", 1)]
            outputs = _sizes(tensors, r"(Conv_0|GroupNorm_1|Conv_1|Dense_0)\.(weight|bias)")
            has_skip = any(name.startswith("Conv_2") for name in tensors)
            what = f"the channels of all_modules.{number}"
            i, o = most_common(inputs, what), most_common(outputs, what)
            blocks.append(_Block(i, o, resamples=has_skip and i == o, attends=False))
    return blocks


def _levels(blocks: Sequence[_Block]) -> tuple[list[int], int, list[bool]]:
    """Channels of each level, blocks a level, and which levels attend.

    L levels of b blocks have L (2 b + 3) blocks in all, those that resample included. If a damaged
    checkpoint has more or fewer, the nearest L is taken, for a comparison to show what differs.
    """
    first = next((number for number, block in enumerate(blocks) if block.resamples), None)
    count = max(1, (len(blocks) - 3) // 2 if first is None else first)
    levels = max(1, round(len(blocks) / (2 * count + 3)))
    if len(blocks) <= (levels - 1) * (count + 1):
        raise ValueError(
            f"the checkpoint's {len(blocks)} residual blocks make no NCSN++"
            "\n  fix: give an undamaged checkpoint of a network that this program knows"
        )
    starts = [blocks[level * (count + 1)] for level in range(levels)]
    return [start.outputs for start in starts], count, [start.attends for start in starts]


def _sizes(tensors: Mapping[str, Tensor], pattern: str, dimension: int = 0) -> list[int]:
    """Sizes along a dimension of the tensors whose whole name matches."""
    return [
        value.shape[dimension]
        for name, value in tensors.items()
        if re.fullmatch(pattern, name) and value.dim() > dimension
    ]
