"""The Fréchet distance against closed forms, scipy's matrix root and torchmetrics."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchmetrics.image.fid import FrechetInceptionDistance

from slimctl.models.metrics.frechet import frechet_distance, resampled_distances
from slimctl.models.metrics.gaussians import Factored, Gaussian, RunningStatistics, gaussian_of


def table(count, width, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return rows @ mix * scale + shift


def in_batches(*batches):
    running = RunningStatistics()
    for rows in batches:
        running.add(rows)
    return running.result()


def gaussian(mean, covariance):
    return Gaussian(mean.double(), covariance.double())


def test_diagonal_gaussians_have_a_closed_form():
    m1, m2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, -1.0, 2.5])
    s1, s2 = torch.tensor([1.0, 4.0, 0.25]), torch.tensor([9.0, 1.0, 0.0])
    expected = (m1 - m2).square().sum() + (s1.sqrt() - s2.sqrt()).square().sum()
    value = frechet_distance(gaussian(m1, s1.diag()), gaussian(m2, s2.diag()))
    assert value == pytest.approx(float(expected), rel=1e-14)


def test_commuting_gaussians_have_a_closed_form():
    basis, _ = torch.linalg.qr(table(6, 6, seed=0))
    l1, l2 = torch.logspace(0, -3, 6).double(), torch.logspace(-2, 1, 6).double()
    s1, s2 = basis @ l1.diag() @ basis.T, basis @ l2.diag() @ basis.T
    value = frechet_distance(gaussian(torch.zeros(6), s1), gaussian(torch.zeros(6), s2))
    assert value == pytest.approx(float((l1.sqrt() - l2.sqrt()).square().sum()), rel=1e-12)


def test_general_gaussians_agree_with_scipy():
    a = Gaussian.from_features(table(300, 16, seed=1))
    b = Gaussian.from_features(table(200, 16, seed=2, scale=0.7, shift=0.5))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = float((a.mean - b.mean).square().sum()) + np.trace(
        a.covariance.numpy() + b.covariance.numpy() - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)


def test_agrees_with_torchmetrics_on_the_same_features():
    class FirstPixels(nn.Module):
        num_features = 12

        def forward(self, images):
            return images.flatten(1)[:, :12].double()

    metric = FrechetInceptionDistance(
        feature=FirstPixels(), normalize=True, input_img_size=(3, 4, 4)
    ).set_dtype(torch.float64)
    generator = torch.Generator().manual_seed(3)
    real = torch.rand(150, 3, 4, 4, generator=generator)
    generated = torch.rand(90, 3, 4, 4, generator=generator) ** 2
    metric.update(real, real=True)
    metric.update(generated, real=False)
    value = frechet_distance(
        Gaussian.from_features(real.flatten(1)[:, :12]),
        Gaussian.from_features(generated.flatten(1)[:, :12]),
    )
    assert value == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize("count", [2, 10, 200])
def test_zero_to_itself_and_symmetric_at_any_rank(count):
    a = Gaussian.from_features(table(count, 32, seed=4))
    b = Gaussian.from_features(table(60, 32, seed=5, shift=0.2))
    trace = float(a.covariance.trace() + b.covariance.trace())
    assert 0 <= frechet_distance(a, a) <= 1e-13 * trace
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_fewer_samples_than_dimensions_keep_their_digits():
    # Samples in k orthogonal directions are Gaussians of k dimensions: padding with empty
    # dimensions and turning the space must change nothing.
    a, b = table(200, 5, seed=6), table(100, 5, seed=7, shift=0.4)
    small = frechet_distance(*map(Gaussian.from_features, (a, b)))
    turn, _ = torch.linalg.qr(table(64, 64, seed=8))
    large = frechet_distance(*(Gaussian.from_features(rows @ turn[:5]) for rows in (a, b)))
    assert large == pytest.approx(small, rel=1e-13)


def test_points_have_the_distance_of_their_means():
    a = Gaussian.from_features(torch.zeros(3, 4))
    b = Gaussian.from_features(torch.full((5, 4), 2.0))
    assert frechet_distance(a, b) == 16.0


def test_any_batches_give_the_statistics_of_the_whole():
    rows = table(203, 8, seed=9, shift=1e6)
    whole = Gaussian.from_features(rows)
    batched = in_batches(*rows.split([1, 1, 100, 101]))
    reference = torch.from_numpy(np.cov(rows.numpy() - 1e6, rowvar=False))
    for statistics in (whole, batched):
        torch.testing.assert_close(statistics.mean, rows.mean(dim=0), rtol=1e-14, atol=0)
        torch.testing.assert_close(statistics.covariance, reference, rtol=1e-8, atol=1e-8)


def test_parts_that_were_written_add_up_to_the_whole():
    rows = table(2000, 8, seed=9, shift=1e3)
    running = RunningStatistics()
    for part in rows.split([700, 1, 1299]):
        one = RunningStatistics()
        one.add(part)
        running.merge(RunningStatistics.from_tensors(one.to_tensors()))
    whole = Gaussian.from_features(rows)
    torch.testing.assert_close(running.result().mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(running.result().covariance, whole.covariance, rtol=1e-12, atol=0)


def test_float32_features_are_accumulated_in_float64():
    rows = (table(5000, 3, seed=10) + 1000).float()
    statistics = Gaussian.from_features(rows)
    expected = torch.from_numpy(np.cov(rows.double().numpy(), rowvar=False))
    torch.testing.assert_close(statistics.covariance, expected, rtol=1e-10, atol=1e-10)


def test_tensors_bring_the_statistics_back_bit_for_bit():
    before = Gaussian.from_features(table(20, 4, seed=11))
    after = Gaussian.from_tensors(before.to_tensors())
    assert torch.equal(before.mean, after.mean)
    assert torch.equal(before.covariance, after.covariance)


def test_bias_at_equal_distributions_is_of_order_one_over_n():
    def bias(count):
        values = [
            frechet_distance(
                Gaussian.from_features(torch.randn(count, 4, generator=generator)),
                Gaussian.from_features(torch.randn(count, 4, generator=generator)),
            )
            for _ in range(60)
        ]
        return sum(values) / len(values)

    generator = torch.Generator().manual_seed(12)
    assert math.log2(bias(100) / bias(400)) == pytest.approx(2.0, abs=0.35)


def test_refuses_what_has_no_statistics():
    good = table(10, 4, seed=13)
    broken = good.clone()
    broken[3, 1] = math.nan
    with pytest.raises(ValueError, match=r"1 of 10 rows, first in row 3"):
        Gaussian.from_features(broken)
    with pytest.raises(ValueError, match="1 samples, but at least 2"):
        Gaussian.from_features(good[:1])
    with pytest.raises(ValueError, match=r"1 sample\(s\) in all"):
        in_batches(good[:1])
    with pytest.raises(ValueError, match=r"0 sample\(s\) in all"):
        in_batches()
    with pytest.raises(ValueError, match="4 dimensions, later ones 3"):
        in_batches(good, good[:, :3])


def test_refuses_unlike_dimensions():
    a = Gaussian.from_features(table(10, 4, seed=14))
    b = Gaussian.from_features(table(10, 3, seed=14))
    with pytest.raises(ValueError, match="4 dimensions, the second 3"):
        frechet_distance(a, b)


def test_refuses_damaged_statistics():
    good = Gaussian.from_features(table(10, 4, seed=15))
    with pytest.raises(ValueError, match="no tensor 'covariance'"):
        Gaussian.from_tensors({"mean": good.mean})
    with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
        dataclasses.replace(good, covariance=good.covariance[:, :3])
    with pytest.raises(ValueError, match="not symmetric"):
        dataclasses.replace(good, covariance=good.covariance.triu())
    with pytest.raises(ValueError, match=r"torch\.float32"):
        dataclasses.replace(good, mean=good.mean.float())
    with pytest.raises(ValueError, match="NaN or infinity"):
        dataclasses.replace(good, mean=good.mean * math.inf)


def test_few_rows_have_the_distance_of_their_covariances():
    few, many = table(5, 9, seed=1), table(40, 9, seed=2)
    whole = [Gaussian.from_features(rows) for rows in (few, many)]
    thin = [gaussian_of(rows) for rows in (few, many)]
    assert isinstance(thin[0], Factored)
    assert isinstance(thin[1], Gaussian)
    assert frechet_distance(*thin) == pytest.approx(frechet_distance(*whole), rel=1e-10)
    assert frechet_distance(thin[0], thin[0]) == pytest.approx(0, abs=1e-10)


def plain_distance(a, b):
    """The textbook's formula in d dimensions, by numpy: roots of the eigenvalues of S1 S2.

    Of as many as the rank of S2 lets be above 0: the roots of the others' rounding are 1e-8.
    """
    s1, s2 = (np.cov(rows.numpy(), rowvar=False) for rows in (a, b))
    rank = min(len(b.unique(dim=0)) - 1, b.shape[1])
    roots = np.sqrt(np.sort(np.linalg.eigvals(s1 @ s2).real)[len(s1) - rank :]).sum()
    shift = np.square(a.numpy().mean(0) - b.numpy().mean(0)).sum()
    return shift + np.trace(s1) + np.trace(s2) - 2 * roots


@pytest.mark.parametrize("count", [2, 20, 47, 48, 200])
def test_draws_of_a_table_have_the_distance_of_the_plain_formula(count):
    rows = table(count, 48, seed=3, shift=5.0)
    draws = torch.randint(count, (4, 30), generator=torch.Generator().manual_seed(4))
    expected = [plain_distance(rows, rows[drawn]) for drawn in draws]
    np.testing.assert_allclose(resampled_distances(rows, draws), expected, rtol=1e-9)


def test_few_rows_are_never_multiplied_in_their_own_dimensions():
    rows = table(20, 512, seed=5)
    draws = torch.randint(20, (20, 20), generator=torch.Generator().manual_seed(6))
    with FlopCounterMode(display=False) as counted:
        resampled_distances(rows, draws)
    once = 2 * 20 * 20 * 512  # the products of the centred rows
    assert counted.get_total_flops() < 2 * once
