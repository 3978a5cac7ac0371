"""The kernel distance against torchmetrics, closed forms and the coverage of its interval."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from slimctl.models.metrics.kernel import kernel_distance, unbiased_mmd


def normal(count, width, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) + shift


def test_estimate_agrees_with_torchmetrics():
    x, y = normal(40, 7, seed=0), normal(40, 7, seed=1, shift=0.3)
    assert unbiased_mmd(x, y) == pytest.approx(float(poly_mmd(x, y)), rel=1e-12)


def test_estimate_takes_sets_of_unlike_size():
    x, y = normal(5, 2, seed=2), normal(3, 2, seed=3)

    def kernel(a, b):
        return float((a @ b / 2 + 1) ** 3)

    within_x = sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
    within_y = sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j)
    between = sum(kernel(a, b) for a in x for b in y)
    expected = within_x / 20 + within_y / 6 - 2 * between / 15
    assert unbiased_mmd(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_estimate_is_unbiased_for_normal_numbers(shift):
    # In one dimension the kernel is sum_j C(3, j) (x y)^j, so the distance is the same sum over
    # squared differences of moments. Those of N(m, 1): m, 1 + m^2, 3 m + m^3.
    expected = 3 * shift**2 + 3 * shift**4 + (3 * shift + shift**3) ** 2
    estimates = [
        unbiased_mmd(normal(20, 1, seed=seed), normal(20, 1, seed=10_000 + seed, shift=shift))
        for seed in range(1000)
    ]
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(expected, abs=4 * error)
    assert error < 0.2


def test_interval_covers_the_closed_form_as_often_as_it_says():
    # Fair signs against signs that are +1 with probability 0.7: the odd moments differ by 0.4.
    expected = 3 * 0.4**2 + 0.4**2
    generator = torch.Generator().manual_seed(4)
    covered = 0
    for _ in range(200):
        fair = torch.rand(1000, 1, generator=generator).sub(0.5).sign()
        bent = torch.rand(1000, 1, generator=generator).sub(0.3).sign()
        result = kernel_distance(fair, bent)
        covered += result.low <= expected <= result.high
    assert covered / 200 == pytest.approx(0.94, abs=0.04)


def test_value_is_the_mean_of_disjoint_subsets():
    # With constant rows each estimate is exact, whichever rows a subset holds.
    real, generated = torch.zeros(30, 4), torch.ones(30, 4)
    result = kernel_distance(real, generated, subset_size=10)
    assert (result.mean, result.low, result.high, result.count) == (7.0, 7.0, 7.0, 3)


def test_rows_of_one_number_are_not_kept_together():
    # A sample compared with its own copy would bias the estimate by -2 (E k(x, x) - E k(x, y)) / m.
    rows = normal(1000, 3, seed=12)
    result = kernel_distance(rows, rows, subset_size=100)
    assert result.low < 0 < result.high


def test_same_seed_same_numbers_and_row_order_matters_only_by_the_shuffle():
    real, generated = normal(100, 3, seed=5), normal(90, 3, seed=6)
    first = kernel_distance(real, generated, seed=1)
    assert first == kernel_distance(real, generated, seed=1)
    assert first != kernel_distance(real, generated, seed=2)
    assert first.low < first.mean < first.high


def test_default_subsets_are_ten_until_they_hold_a_thousand_samples():
    assert kernel_distance(normal(250, 2, seed=7), normal(300, 2, seed=8)).count == 10
    many = kernel_distance(normal(12_500, 2, seed=7), normal(12_000, 2, seed=8))
    assert many.count == 12


def test_float32_features_are_compared_in_float64():
    x, y = normal(50, 4, seed=9).float(), normal(50, 4, seed=10).float()
    assert unbiased_mmd(x, y) == unbiased_mmd(x.double(), y.double())


def test_refuses_sets_without_an_estimate():
    good = normal(20, 3, seed=11)
    with pytest.raises(ValueError, match="subset_size is 11 with 20 samples"):
        kernel_distance(good, good, subset_size=11)
    with pytest.raises(ValueError, match="subset_size is 1 "):
        kernel_distance(good, good, subset_size=1)
    with pytest.raises(ValueError, match="subset_size is 0 "):
        kernel_distance(good, good, subset_size=0)
    with pytest.raises(ValueError, match="3 samples, but at least 4"):
        kernel_distance(good, good[:3])
    with pytest.raises(ValueError, match="3 dimensions, of generated images 2"):
        kernel_distance(good, good[:, :2])
    with pytest.raises(ValueError, match="features of generated images: NaN"):
        kernel_distance(good, good * math.nan)
