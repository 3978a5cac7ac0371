import numpy as np
import pytest
import torch

from slimctl.models.metrics.bootstrap import (
    paired_interval,
    resampled_distances,
    standard_interval,
)
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian, gaussian_of

STANDARD = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())


def samples(count=2000, shift=0.7, scale=1.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, 1, generator=generator, dtype=torch.float64)


def interval(features, seed=0):
    value = frechet_distance(STANDARD, gaussian_of(features))
    return standard_interval(value, resampled_distances(STANDARD, features, seed, 200))


def test_its_width_is_what_theory_says():
    """In one dimension the distance is m^2 + (s - 1)^2, of which mean and deviation are free."""
    m, s, n = 0.7, 1.4, 2000
    sd = np.sqrt((2 * m) ** 2 * s**2 / n + (2 * (s - 1)) ** 2 * s**2 / (2 * n))
    found = interval(samples())
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(sd, rel=0.15)
    assert found.low < m**2 + (s - 1) ** 2 < found.high


def test_models_that_share_noise_are_compared_in_pairs():
    noise = samples(shift=0.0, scale=1.0)
    one, other = 0.7 + 1.4 * noise, 0.72 + 1.4 * noise
    values = [frechet_distance(STANDARD, gaussian_of(each)) for each in (one, other)]
    draws = [resampled_distances(STANDARD, each, 3, 100) for each in (one, other)]
    paired = paired_interval(values[1], values[0], (draws[1], draws[0]))
    alone = interval(one)
    assert paired.low > 0
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_resamples_are_functions_of_the_seed():
    features = samples(50)
    first = resampled_distances(STANDARD, features, 1, 3)
    assert resampled_distances(STANDARD, features, 1, 3) == first
    assert resampled_distances(STANDARD, features, 2, 3) != first
    with pytest.raises(ValueError, match="have no interval"):
        standard_interval(1.0, [1.0])
