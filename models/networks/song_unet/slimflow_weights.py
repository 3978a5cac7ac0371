"""Reads the weights of SlimFlow's own NCSN++ checkpoints into our network.

The published network is one flat list `all_modules` in order of execution, so the map is made by
walking our network in that order.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from torch import nn

from slimctl.models.networks.published_weights import (
    Source,
    layer_sources,
    most_common,
    rename,
    sizes_of,
    whole_ratio,
)
from slimctl.models.networks.song_unet.network import (
    Attention,
    DownLevel,
    ResidualBlock,
    SongUNet,
    UpLevel,
)
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import level_heights
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
        [
            *sizes_of(stem, "weight"),
            *sizes_of(stem, "bias"),
            *sizes_of(modules.get(0, {}), "weight", 1),
        ],
        "its channels",
    )
    widths, blocks, attends = _levels(_blocks(modules))
    embedding = most_common(
        [size for number in (0, 1) for size in sizes_of(modules.get(number, {}), "weight|bias")],
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
    image_channels = [*sizes_of(stem, "weight", 1), *sizes_of(head, "weight|bias")]
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
            inputs = [
                *sizes_of(tensors, r"GroupNorm_0\.\w+"),
                *sizes_of(tensors, r"Conv_0\.weight", 1),
            ]
            outputs = sizes_of(tensors, r"(Conv_0|GroupNorm_1|Conv_1|Dense_0)\.(weight|bias)")
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


BUFFERS = frozenset({"sigmas"})
"""Tensors of a published checkpoint that are no parameters and that the velocity ignores."""


def parameters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state without DataParallel's prefix and without buffers."""
    named = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value for name, value in named.items() if name not in BUFFERS}


def from_slimflow(state: Mapping[str, Tensor], network: SongUNet) -> dict[str, Tensor]:
    """Renames, transposes and stacks a published state into one that `network` loads strictly.

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
