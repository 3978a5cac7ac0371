"""Density and coverage: precision and recall that a single outlier does not lift.

An outlier among the real images has a large ball, which makes precision of whatever falls into it;
density counts how many balls a sample is in. Coverage looks at balls of real images alone, so it
does not grow with outliers among the samples, as recall does.
"""

from dataclasses import dataclass

import torch

from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.precision_recall import neighbour_radii
from slimctl.models.metrics.rows import (
    TILE_COLUMNS,
    TILE_ROWS,
    check_rows,
    check_same_width,
    squared_distances,
    tiles,
)
from slimctl.models.shapes import Float, Tensor


@dataclass(frozen=True)
class DensityCoverage:
    """How densely, and how completely, samples lie where real ones do."""

    density: float
    """Balls of real samples that a generated one is in, over the number expected; may exceed 1."""
    coverage: float
    """Share of the real samples with a generated one in their ball, in [0, 1]."""


def measure(evidence: Evidence) -> dict[str, float]:
    """Density and coverage of as many samples as there are real images."""
    same = min(len(evidence.real), len(evidence.own))
    real = evidence.real[:same].to(evidence.sampler.device)
    found = density_coverage(real, evidence.own[:same], evidence.neighbours)
    return {"density": found.density, "coverage": found.coverage}


def density_coverage(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m e"], neighbours: int = 5
) -> DensityCoverage:
    """Density and coverage of generated samples by their features.

    Args:
        real: features of real images, d = e.
        generated: features of generated images.
        neighbours: k, at least 1 and below the number of real images; the paper's is 5.

    Raises:
        ValueError: too few samples, unlike dimensions, or a NaN or infinity.

    Source: Naeem et al., arXiv 2002.09797, eq. 3 and 5.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours is {neighbours}: it must be at least 1, the paper's is 5")
    check_rows(real, "features of real images", at_least=neighbours + 1)
    check_rows(generated, "features of generated images", at_least=1)
    check_same_width(real, generated, ("features of real images", "of generated images"))
    generated = generated.to(real.device)
    radii = neighbour_radii(real, neighbours)
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    inside = 0
    for _, tile in tiles(generated, TILE_ROWS):
        for first, columns in tiles(real, TILE_COLUMNS):
            here = slice(first, first + len(columns))
            held = squared_distances(tile, columns) <= radii[here]
            inside += int(held.sum())
            covered[here] |= held.any(dim=0)
    return DensityCoverage(
        density=inside / (neighbours * len(generated)), coverage=float(covered.double().mean())
    )
