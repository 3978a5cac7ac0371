"""Reads the weights of an ADM in NVlabs/edm's naming: EDM's own networks and SlimFlow's."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from slimctl.models.networks.adm.network import ADM, DownLevel, ResidualBlock, UpLevel
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.edm_layout import attention_sources, parameters, read_layout
from slimctl.models.networks.published_weights import (
    Source,
    layer_sources,
    most_common,
    rename,
    whole_ratio,
)
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

_LAYERS = {"norm_in": "norm0", "conv_in": "conv0", "affine": "affine"}
_LAYERS |= {"norm_out": "norm1", "conv_out": "conv1"}


def read_edm(state: Mapping[str, Tensor], time_scale: float) -> tuple[ADMSpec, ImageShape]:
    """The architecture of a state, and its images.

    Args:
        state: Published name -> tensor.
        time_scale: 999 in SlimFlow's networks, 1 in EDM's.

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


def from_edm(state: Mapping[str, Tensor], network: ADM, size: int) -> dict[str, Tensor]:
    """Renames a published state into one that `network` loads strictly.

    Args:
        state: Published name -> tensor; buffers are left out.
        network: The network to load into, which may be on the meta device; it is not changed.
        size: Height of its images, which is part of the published names.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; names all of them.
    """
    return rename(parameters(state), sources(network, size), network)


def sources(network: ADM, size: int) -> dict[str, Source]:
    """Where each parameter of a network for images of `size` pixels comes from."""
    return dict(_sources(network, size))


def _sources(network: ADM, size: int) -> Iterator[tuple[str, Source]]:
    yield from layer_sources("embedding.time_in", "map_layer0")
    yield from layer_sources("embedding.time_out", "map_layer1")
    if network.embedding.label is not None:
        yield "embedding.label.weight", Source(("map_label.weight",), "transposed")
    if network.embedding.augment is not None:
        yield from layer_sources("embedding.augment", "map_augment", ["weight"])
    yield from layer_sources("stem", f"enc.{size}x{size}_conv")
    yield from layer_sources("head_norm", "out_norm")
    yield from layer_sources("head", "out_conv")
    for ours, published in _blocks(network, size):
        block = cast("ResidualBlock", network.get_submodule(ours))
        layers = _LAYERS if block.skip is None else _LAYERS | {"skip": "skip"}
        for mine, theirs in layers.items():
            yield from layer_sources(f"{ours}.{mine}", f"{published}.{theirs}")
        if block.attention is not None:
            yield from attention_sources(f"{ours}.attention", published)


def _blocks(network: ADM, size: int) -> Iterator[tuple[str, str]]:
    """Our name of each residual block and the published one."""
    last = len(network.down) - 1
    for level, down in enumerate(cast("Iterable[DownLevel]", network.down)):
        at = f"enc.{size >> level}x{size >> level}"
        if level > 0:
            yield f"down.{level}.down", f"{at}_down"
        for index in range(len(down.blocks)):
            yield f"down.{level}.blocks.{index}", f"{at}_block{index}"
    yield "middle_in", f"dec.{size >> last}x{size >> last}_in0"
    yield "middle_out", f"dec.{size >> last}x{size >> last}_in1"
    for number, up in enumerate(cast("Iterable[UpLevel]", network.up)):
        at = f"dec.{size >> (last - number)}x{size >> (last - number)}"
        if number > 0:
            yield f"up.{number}.up", f"{at}_up"
        for index in range(len(up.blocks)):
            yield f"up.{number}.blocks.{index}", f"{at}_block{index}"
