"""Precision and recall against brute force and sets whose answer is plain."""

import math

import pytest
import torch

from slimctl.models.metrics import precision_recall as module
from slimctl.models.metrics.precision_recall import (
    PrecisionRecall,
    neighbour_radii,
    precision_recall,
)


def normal(count, width, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + shift


def share_inside_brute_force(points, centres, k):
    within = (centres[:, None] - centres[None]).norm(dim=2)
    radii = [
        sorted(row[j] for j in range(len(centres)) if j != i)[k - 1]
        for i, row in enumerate(within.tolist())
    ]
    inside = [
        any(
            (point - centre).norm() <= radius for centre, radius in zip(centres, radii, strict=True)
        )
        for point in points
    ]
    return sum(inside) / len(inside)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_agrees_with_brute_force(k):
    real, generated = normal(60, 3, seed=0), normal(45, 3, seed=1, shift=1.5)
    result = precision_recall(real, generated, neighbours=k)
    assert result.precision == share_inside_brute_force(generated, real, k)
    assert result.recall == share_inside_brute_force(real, generated, k)
    assert 0 < result.precision < 1
    assert 0 < result.recall < 1


def test_the_size_of_the_tiles_changes_nothing(monkeypatch):
    real, generated = normal(60, 3, seed=2), normal(45, 3, seed=3, shift=1.5)
    whole = precision_recall(real, generated)
    monkeypatch.setattr(module, "TILE_ROWS", 7)
    monkeypatch.setattr(module, "TILE_COLUMNS", 2)
    assert precision_recall(real, generated) == whole


def test_identical_sets_and_duplicates():
    rows = normal(30, 4, seed=4)
    assert precision_recall(rows, rows) == PrecisionRecall(1.0, 1.0)
    copies = rows.repeat(5, 1) + 100
    assert neighbour_radii(copies, 3).eq(0).all()
    assert precision_recall(copies, copies.flip(0)) == PrecisionRecall(1.0, 1.0)


def test_disjoint_sets():
    result = precision_recall(normal(30, 4, seed=5), normal(30, 4, seed=6, shift=100))
    assert (result.precision, result.recall) == (0.0, 0.0)


def test_a_dropped_mode_costs_recall_and_not_precision():
    # The half of the real set at +50 is never generated; the generated half is real.
    kept, dropped = normal(100, 2, seed=7), normal(100, 2, seed=8, shift=50)
    result = precision_recall(torch.cat([kept, dropped]), kept)
    assert (result.precision, result.recall) == (1.0, 0.5)


def test_an_invented_mode_costs_precision_and_not_recall():
    real, invented = normal(100, 2, seed=9), normal(300, 2, seed=10, shift=50)
    result = precision_recall(real, torch.cat([real, invented]))
    assert (result.precision, result.recall) == (0.25, 1.0)


def test_points_on_a_line_have_radii_to_count():
    # 0, 1, 3, 7: second neighbours at distance 3, 2, 3, 6.
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_radii(rows, 2).sqrt().tolist() == pytest.approx([3.0, 2.0, 3.0, 6.0])


def test_refuses_sets_without_neighbours():
    good = normal(10, 3, seed=11)
    with pytest.raises(ValueError, match="3 samples, but at least 4"):
        precision_recall(good, good[:3])
    with pytest.raises(ValueError, match="neighbours is 0"):
        precision_recall(good, good, neighbours=0)
    with pytest.raises(ValueError, match="3 dimensions, of generated images 2"):
        precision_recall(good, good[:, :2])
    with pytest.raises(ValueError, match="features of real images: NaN"):
        precision_recall(good * math.inf, good)
