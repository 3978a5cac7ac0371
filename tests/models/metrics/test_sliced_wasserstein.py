"""Sliced Wasserstein distance against closed forms and scipy."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from slimctl.models.metrics.sliced_wasserstein import QUANTILES, sliced_wasserstein


def points(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_a_set_is_at_no_distance_from_itself_in_any_order():
    a = points(300, 3)
    assert sliced_wasserstein(a, a.flip(0)) == 0.0


@pytest.mark.parametrize("width", [1, 2])
def test_a_shift_is_its_length_over_the_root_of_the_width(width):
    """The mean of (s . u)^2 over unit vectors u is |s|^2 / d; exact where lines are even."""
    a = points(200, width)
    shift = torch.tensor([3.0, 4.0])[:width]
    expected = float(shift.norm()) / math.sqrt(width)
    assert sliced_wasserstein(a, a + shift) == pytest.approx(expected, rel=1e-6)


def test_a_shift_in_many_dimensions():
    a = points(200, 10)
    expected = 5.0 / math.sqrt(10)
    assert sliced_wasserstein(a, a + 5.0 / math.sqrt(10), 4000) == pytest.approx(expected, rel=0.05)


def test_a_scaled_gaussian():
    """On each line N(0, 1) and N(0, 4) are 1 apart."""
    a = points(20_000, 2)
    assert sliced_wasserstein(a, 2.0 * points(20_000, 2, seed=1)) == pytest.approx(1.0, abs=0.05)


def test_on_a_line_it_is_above_the_first_order_distance():
    a, b = points(QUANTILES, 1), 0.5 + points(QUANTILES, 1, seed=1).abs()
    first = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    squares = (a.sort(dim=0).values - b.sort(dim=0).values).square().mean().sqrt()
    assert sliced_wasserstein(a, b) == pytest.approx(float(squares), rel=1e-6)
    assert sliced_wasserstein(a, b) >= first


def test_unequal_counts_compare_quantiles():
    a = points(100, 2)
    assert sliced_wasserstein(a, a.repeat_interleave(3, dim=0)) < 1e-12


@pytest.mark.parametrize(
    ("a", "b", "directions", "message"),
    [
        (points(3, 2), points(3, 3), 8, "dimensions"),
        (points(3, 2), points(0, 2), 8, "at least 1"),
        (points(3, 2), points(3, 2) / 0.0, 8, "infinity"),
        (points(3, 2), points(3, 2), 0, "directions is 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, directions, message):
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(a, b, directions)
