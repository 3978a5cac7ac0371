"""Improved precision and recall: fidelity and coverage measured apart.

A set's manifold is the union of balls around its samples, each as large as the distance to the
sample's k-th nearest neighbour in its own set. A sample is never its own neighbour, by index and
not by a distance of 0, so that duplicates in a set do count as neighbours.
"""

from dataclasses import dataclass

import torch

from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.rows import (
    TILE_COLUMNS,
    TILE_ROWS,
    check_rows,
    check_same_width,
    hide_own,
    squared_distances,
    tiles,
)
from slimctl.models.shapes import Bool, Float, Tensor


@dataclass(frozen=True)
class PrecisionRecall:
    """Two shares in [0, 1]."""

    precision: float
    """Share of the generated samples on the manifold of the real ones: fidelity."""
    recall: float
    """Share of the real samples on the manifold of the generated ones: coverage."""


def measure(evidence: Evidence) -> dict[str, float]:
    """Precision and recall of as many samples as there are real images."""
    same = min(len(evidence.real), len(evidence.own))
    real = evidence.real[:same].to(evidence.sampler.device)
    found = precision_recall(real, evidence.own[:same], evidence.neighbours)
    return {"precision": found.precision, "recall": found.recall}


def precision_recall(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m e"], neighbours: int = 3
) -> PrecisionRecall:
    """Precision and recall of generated samples by their features.

    Both depend on the counts (more samples, smaller balls): compare values from equal counts, and
    take n = m as the paper does.

    Args:
        real: features of real images, d = e.
        generated: features of generated images.
        neighbours: k, at least 1 and below both counts.

    Raises:
        ValueError: too few samples, unlike dimensions, or a NaN or infinity.

    Source: Kynkäänniemi et al., arXiv 1904.06991, eq. 1 and 2.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}: it must be at least 1, the paper's is 3")
    check_rows(real, "features of real images", at_least=neighbours + 1)
    check_rows(generated, "features of generated images", at_least=neighbours + 1)
    check_same_width(real, generated, ("features of real images", "of generated images"))
    generated = generated.to(real.device)
    return PrecisionRecall(
        precision=_share_inside(generated, real, neighbours),
        recall=_share_inside(real, generated, neighbours),
    )


def neighbour_radii(rows: Float[Tensor, "n d"], neighbours: int) -> Float[Tensor, " n"]:
    """Squared distance (float64) of each row to its k-th nearest other row, k < n."""
    return torch.cat(
        [_tile_radii(start, tile, rows, neighbours) for start, tile in tiles(rows, TILE_ROWS)]
    )


def _tile_radii(
    start: int, tile: Float[Tensor, "k d"], rows: Float[Tensor, "n d"], neighbours: int
) -> Float[Tensor, " k"]:
    own = torch.arange(start, start + len(tile), device=rows.device)
    nearest = torch.empty(len(tile), 0, dtype=torch.float64, device=rows.device)
    for first, columns in tiles(rows, TILE_COLUMNS):
        squares = squared_distances(tile, columns)
        hide_own(squares, own, first)
        nearest = torch.cat([nearest, squares], dim=1)
        nearest = nearest.topk(min(neighbours, nearest.shape[1]), largest=False).values
    return nearest[:, -1]


def _share_inside(
    points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], neighbours: int
) -> float:
    """Share of `points` in at least one ball around `centres`; a ball holds its own border."""
    radii = neighbour_radii(centres, neighbours)
    inside = sum(int(_inside(tile, centres, radii).sum()) for _, tile in tiles(points, TILE_ROWS))
    return inside / len(points)


def _inside(
    tile: Float[Tensor, "k d"], centres: Float[Tensor, "m d"], radii: Float[Tensor, " m"]
) -> Bool[Tensor, " k"]:
    found = torch.zeros(len(tile), dtype=torch.bool, device=tile.device)
    for first, columns in tiles(centres, TILE_COLUMNS):
        border = radii[first : first + len(columns)]
        found |= (squared_distances(tile, columns) <= border).any(dim=1)
    return found
