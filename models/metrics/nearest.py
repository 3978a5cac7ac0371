"""Nearest training images of generated samples: does the generator only repeat what it saw?

The search compares squared distances from a matrix product; the distance that is reported is then
computed again from the difference of the two images, so an exact copy is exactly 0.
"""

from dataclasses import dataclass

import torch

from slimctl.models.counter_random import Stream, uniform
from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.rows import (
    TILE_COLUMNS,
    TILE_ROWS,
    check_rows,
    hide_own,
    squared_distances,
    tiles,
)
from slimctl.models.pixels import to_float
from slimctl.models.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest training image of each sample."""

    distance: Float[Tensor, " n"]
    """Root mean square difference of the pixels (float64), pixels in [-1, 1]: one 8-bit grey level
    is 1 / 127.5."""
    index: Int[Tensor, " n"]
    """Its number in the training set."""


def measure(evidence: Evidence) -> dict[str, float]:
    """Median distance of samples to their nearest real image, and that of real ones."""
    real = to_float(evidence.real_images())
    samples = to_float(evidence.images).to(evidence.sampler.device)
    distance = nearest_distance(samples, real).distance
    return {
        "nearest_rms": float(distance.quantile(0.5)),
        "nearest_rms_real": evidence.nearest_rms_real,
    }


def nearest_distance(
    samples: Float[Tensor, " n *shape"],
    training: Float[Tensor, " m *other"],
    own_index: Int[Tensor, " n"] | None = None,
) -> Nearest:
    """The nearest training image of each sample, by root mean square pixel distance.

    Memory beside the inputs: three tiles, at most about 64 MiB of distances and 6144 images in
    float64. Of equally near images the first is named.

    Args:
        samples: images in [-1, 1], on the device that searches.
        training: images in [-1, 1] of the same shape, which stay where they are: a tile at a time
            comes to the samples.
        own_index: which training image each sample is, to be left out; -1 is none. None: samples
            are not training images.

    Raises:
        ValueError: unlike shapes, an empty set, or a NaN or infinity.
    """
    if samples.shape[1:] != training.shape[1:]:
        raise ValueError(
            f"samples have shape {tuple(samples.shape[1:])}, training images "
            f"{tuple(training.shape[1:])}\n  fix: compare images of one shape"
        )
    flat, known = samples.flatten(1), training.flatten(1)
    check_rows(flat, "samples", at_least=1)
    check_rows(known, "training images", at_least=1 if own_index is None else 2)
    own = torch.full((len(flat),), -1) if own_index is None else own_index
    own = own.to(samples.device, torch.int64)
    parts = [
        _search(tile, known, own[start : start + len(tile)])
        for start, tile in tiles(flat, TILE_ROWS)
    ]
    index = torch.cat(parts)
    return Nearest(_exact_distance(flat, known, index), index)


def own_distance(
    training: Float[Tensor, " m *other"],
    real_count: int = 1000,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Median distance of `real_count` training images, drawn with `seed`, to the nearest other one.

    The images stay where they are; `device` searches.

    Raises:
        ValueError: fewer than 2 images, a NaN or infinity, or `real_count` below 1.
    """
    if real_count < 1:
        raise ValueError(f"real_count is {real_count}: it must be at least 1")
    draws = uniform(seed, Stream.SUBSET, torch.arange(len(training)))
    chosen = draws.argsort(stable=True)[:real_count].to(training.device)
    real = nearest_distance(training[chosen].to(device), training, own_index=chosen)
    return float(real.distance.quantile(0.5))


def _search(
    samples: Float[Tensor, "k d"], training: Float[Tensor, "m d"], own: Int[Tensor, " k"]
) -> Int[Tensor, " k"]:
    best = torch.full((len(samples),), torch.inf, dtype=torch.float64, device=samples.device)
    index = torch.zeros_like(own)
    for first, columns in tiles(training, TILE_COLUMNS):
        squares = squared_distances(samples, columns.to(samples.device))
        hide_own(squares, own, first)
        value, column = squares.min(dim=1)
        index = torch.where(value < best, column + first, index)
        best = torch.minimum(best, value)
    return index


def _exact_distance(
    samples: Float[Tensor, "n d"], training: Float[Tensor, "m d"], index: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    parts = []
    for start, tile in tiles(samples, TILE_ROWS):
        nearest = training[index[start : start + len(tile)].to(training.device)].to(tile.device)
        parts.append((tile.double() - nearest.double()).square().mean(dim=1))
    return torch.cat(parts).sqrt()
