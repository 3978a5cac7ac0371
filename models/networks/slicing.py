"""A slimmer network's first weights, cut out of its teacher's.

Every width of a network is made of pieces of one size (the channels of its first level, a token's
width, or a group of a level's norms), and so are the axes that stack several widths: query, key and
value, scale and shift, the two inputs of a concatenation. Of each piece the leading channels are
taken, so that one set of channels stays along every residual stream, and whole groups of a norm or
the same share of each. Some axes are no such stacks: heads of attention, of which whole ones are
taken where there are as wide ones, and the features of time, of which those with the nearest
frequencies are.

Source: Kim et al. (BK-SDM), arXiv 2305.15798; Fang et al. (Diff-Pruning), arXiv 2305.10924.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from slimctl.models.networks.adm.network import Attention as ADMAttention
from slimctl.models.networks.adm.network import Embedding as ADMEmbedding
from slimctl.models.networks.slim import kept_layers
from slimctl.models.networks.song_unet.network import Embedding as SongEmbedding
from slimctl.models.shapes import Int, Tensor

Index = Int[Tensor, " n"]


@dataclass(frozen=True)
class Pieces:
    """Channels of the pieces that widths are made of, as (teacher's, student's)."""

    sizes: tuple[tuple[int, int], ...]

    def index(self, wide: int, narrow: int, where: str) -> Index:
        """The channels of an axis that stay.

        Raises:
            ValueError: the two axes are not of as many pieces.
        """
        for many, few in sorted(self.sizes):
            if wide % many == 0 and wide // many * few == narrow:
                starts = torch.arange(0, wide, many)
                return (starts[:, None] + torch.arange(few)).flatten()
        if any(wide * few == narrow * many for many, few in self.sizes):
            return torch.arange(narrow)  # narrower than a piece
        raise ValueError(f"{where} is {narrow} wide, which is no slimmer copy of {wide}")


def sliced_weights(
    student: nn.Module, teacher: nn.Module, weights: Mapping[str, Tensor], pieces: Pieces
) -> dict[str, Tensor]:
    """The student's state dictionary, cut out of the teacher's.

    Args:
        student: the slimmer network.
        teacher: its teacher, which may be on the meta device.
        weights: the teacher's, by name.
        pieces: of both.

    Raises:
        ValueError: the student is no slimmer copy of it.
    """
    made: dict[str, Tensor] = {}
    special: dict[tuple[str, int], Index] = {}
    for path, where, own, theirs in _paired(student, teacher):
        for name, axis, index in _special(own, theirs, pieces):
            special[f"{path}{name}", axis] = index
        for name in _tensors(own):
            made[f"{path}{name}"] = _cut(
                f"{path}{name}", getattr(own, name), weights[f"{where}{name}"], pieces, special
            )
    return made


def _cut(
    name: str,
    wanted: Tensor,
    found: Tensor,
    pieces: Pieces,
    special: Mapping[tuple[str, int], Index],
) -> Tensor:
    """The part of a tensor that has the wanted shape."""
    if wanted.dim() != found.dim():
        raise ValueError(f"{name} has {wanted.dim()} axes, the teacher's {found.dim()}")
    for axis, (wide, narrow) in enumerate(zip(found.shape, wanted.shape, strict=True)):
        if wide != narrow:
            index = special.get((name, axis))
            found = found.index_select(
                axis, pieces.index(wide, narrow, name) if index is None else index
            )
    return found.contiguous()


def _tensors(module: nn.Module) -> list[str]:
    """Names of a module's own weights and lasting buffers."""
    lost = module._non_persistent_buffers_set  # noqa: SLF001  (torch has no other way to ask)
    held = [*module._parameters.items(), *module._buffers.items()]  # noqa: SLF001
    return [name for name, value in held if value is not None and name not in lost]


def _paired(
    student: nn.Module, teacher: nn.Module, path: str = "", where: str = ""
) -> Iterator[tuple[str, str, nn.Module, nn.Module]]:
    """Each module of the student with its place, and the one of the teacher that it comes from."""
    yield path, where, student, teacher
    theirs = dict(teacher.named_children())
    names = list(theirs)
    for number, (name, child) in enumerate(student.named_children()):
        other = name
        if isinstance(student, nn.ModuleList):
            other = names[kept_layers(len(names), len(student))[number]]
        if other not in theirs:
            raise ValueError(f"{path}{name} is not in the teacher, so it cannot be cut out of it")
        yield from _paired(child, theirs[other], f"{path}{name}.", f"{where}{other}.")


def _special(own: Any, theirs: Any, pieces: Pieces) -> Iterator[tuple[str, int, Index]]:
    """Axes below a module that are no stack of units: name of the tensor, axis, what stays."""
    if isinstance(own, ADMAttention):
        yield from _adm_heads(own, theirs)
    elif isinstance(own, (SongEmbedding, ADMEmbedding)):
        yield from _features_of_time(own, theirs)
    elif hasattr(own, "time_embedding") and hasattr(own, "time_proj"):  # a U-Net of diffusers
        pairs = theirs.time_proj.num_channels // 2, own.time_proj.num_channels // 2
        yield "time_embedding.linear_1.weight", 1, _nearest_frequencies(*pairs)
        yield from _concatenations(own, theirs, pieces)
    elif hasattr(own, "to_q") and hasattr(own, "heads"):  # attention of diffusers
        heads = _heads(theirs.heads, theirs.inner_dim, own.heads, own.inner_dim)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
            yield f"{name}.weight", 0, heads
            yield f"{name}.bias", 0, heads
        yield "to_out.0.weight", 1, heads
        yield "to_add_out.weight", 1, heads


def _concatenations(own: Any, theirs: Any, pieces: Pieces) -> Iterator[tuple[str, int, Index]]:
    """Inputs of the blocks on the way up of a U-Net of diffusers: what comes, then the skip."""
    wide, narrow = (each.mid_block.resnets[-1].out_channels for each in (theirs, own))
    for at, (up, other) in enumerate(zip(own.up_blocks, theirs.up_blocks, strict=True)):
        kept = kept_layers(len(other.resnets), len(up.resnets))
        for number, resnet in enumerate(up.resnets):
            teacher = other.resnets[kept[number]]
            place = f"up_blocks.{at}.resnets.{number}"
            first = pieces.index(wide, narrow, place)
            skips = teacher.in_channels - wide, resnet.in_channels - narrow
            index = torch.cat([first, wide + pieces.index(*skips, place)])
            yield f"{place}.norm1.weight", 0, index
            yield f"{place}.norm1.bias", 0, index
            yield f"{place}.conv1.weight", 1, index
            yield f"{place}.conv_shortcut.weight", 1, index
            wide, narrow = teacher.out_channels, resnet.out_channels


def _heads(many: int, wide: int, few: int, narrow: int) -> Index:
    """Leading channels of leading heads; whole ones where those of both are as wide."""
    starts = torch.arange(few) * (wide // many)
    return (starts[:, None] + torch.arange(narrow // few)).flatten()


def _adm_heads(own: Any, theirs: Any) -> Iterator[tuple[str, int, Index]]:
    wide, narrow = theirs.out.in_features, own.out.in_features
    heads = _heads(theirs.heads, wide, own.heads, narrow)
    stacked = torch.cat([heads, wide + heads, 2 * wide + heads])  # query, key, value
    yield "qkv.weight", 0, stacked
    yield "qkv.bias", 0, stacked
    yield "out.weight", 1, heads


def _features_of_time(own: Any, theirs: Any) -> Iterator[tuple[str, int, Index]]:
    """Features of time in our own U-Nets: the two halves are sine and cosine."""
    many, few = theirs.pairs, own.pairs
    if getattr(own, "fourier", None) is not None:
        yield "fourier.frequencies", 0, torch.arange(few)
        index = torch.cat([torch.arange(few), many + torch.arange(few)])
    else:
        index = _nearest_frequencies(many, few, last=isinstance(own, SongEmbedding))
    yield "time_in.weight", 1, index
    yield "augment.weight", 0, index
    yield "label_in.weight", 0, index
    yield "label_in.bias", 0, index


def _nearest_frequencies(many: int, few: int, *, last: bool = False) -> Index:
    """Features of the teacher's frequencies exp(-c i / pairs) that are nearest to the student's.

    Args:
        many: pairs of sine and cosine of the teacher.
        few: of the student.
        last: whether the last pair has the same frequency in both: exp(-c i / (pairs - 1)).
    """
    step = (many - 1) / max(1, few - 1) if last else many / few
    pairs = (torch.arange(few) * step).round().long()
    return torch.cat([pairs, many + pairs])
