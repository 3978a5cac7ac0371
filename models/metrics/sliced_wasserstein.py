"""Sliced Wasserstein distance: how far two sets of points are apart, without any network.

On a line the best transport sorts both sets, so the distance of two sets in many dimensions is
taken on lines through the origin and averaged.
"""

import math

import torch

from slimctl.models.metrics.rows import check_rows, check_same_width
from slimctl.models.shapes import Float, Tensor

QUANTILES = 512
"""Most points of a line that are compared; larger sets are read at this many quantiles."""


def sliced_wasserstein(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m e"], directions: int = 128, seed: int = 0
) -> float:
    """Root mean over directions of the squared 2-Wasserstein distance of the projections.

    In the unit of the points. Two sets of n and m points of one distribution are above 0 apart:
    compare only values from equal counts.

    Args:
        a: points, d = e.
        b: points.
        directions: random directions, at least 1; in the plane they are evenly spaced.
        seed: of the directions.

    Raises:
        ValueError: no points or no directions, unlike dimensions, or a NaN or infinity.

    Source: Rabin et al., Wasserstein barycenter and its application to texture mixing (2011).
    """
    if directions < 1:
        raise ValueError(f"directions is {directions}: at least 1 is needed")
    check_rows(a, "the first points", at_least=1)
    check_rows(b, "the second points", at_least=1)
    check_same_width(a, b, ("the first points", "the second"))
    lines = _directions(a.shape[1], directions, seed).to(a.device)
    read = min(QUANTILES, max(len(a), len(b)))
    share = (torch.arange(read, dtype=torch.float64, device=a.device) + 0.5) / read
    first, second = _quantiles(a.double() @ lines, share), _quantiles(b.double() @ lines, share)
    return float((first - second).square().mean().sqrt())


def _directions(width: int, count: int, seed: int) -> Float[Tensor, "d k"]:
    """Unit vectors as columns: half a turn in even steps in the plane, else at random."""
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if width == 2:
        angle = torch.arange(count, dtype=torch.float64) * (math.pi / count)
        return torch.stack((angle.cos(), angle.sin()))
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(width, count, dtype=torch.float64, generator=generator)
    lines: Tensor = random / random.norm(dim=0)
    return lines


def _quantiles(
    projections: Float[Tensor, "n k"], share: Float[Tensor, " q"]
) -> Float[Tensor, "q k"]:
    """The projections below which each share of a set lies: a step function of the sorted set."""
    row = (share * len(projections)).long().clamp_max(len(projections) - 1)
    quantiles: Tensor = projections.sort(dim=0).values[row]
    return quantiles
