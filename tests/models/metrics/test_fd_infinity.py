import math

import pytest
import torch

from slimctl.models.metrics.fd_infinity import fd_infinity, fewest
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian, gaussian_of

WIDTH = 24
STANDARD = Gaussian(torch.zeros(WIDTH).double(), torch.eye(WIDTH).double())


def drawn(count, scale, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)


def test_gaussians_of_a_known_distance():
    true = WIDTH * (0.5**2 + (1.5 - 1) ** 2)
    found = fd_infinity(STANDARD, drawn(4000, 1.5, 0.5, 0))
    assert found.mean == pytest.approx(true, rel=0.02)
    assert found.low < true < found.high
    assert found.high - found.low < 0.1 * true


def test_the_bias_of_few_samples_is_gone():
    """Where the distance is 0, that of n samples is far above it, the extrapolated one is not."""
    values, biased = [], []
    for seed in range(8):
        features = drawn(400, 1.0, 0.0, seed)
        values.append(fd_infinity(STANDARD, features).mean)
        biased.append(frechet_distance(STANDARD, gaussian_of(features)))
    mean, spread = math.fsum(values) / 8, torch.tensor(values).std()
    assert min(biased) > 0.3
    assert abs(mean) < 3 * float(spread) / 8**0.5 + 0.02


def test_the_interval_holds_what_it_says():
    true = WIDTH * 0.5**2
    held = 0
    for seed in range(30):
        found = fd_infinity(STANDARD, drawn(400, 1.0, 0.5, seed))
        held += found.low < true < found.high
    assert held >= 25


def test_too_few_samples():
    few = fewest(WIDTH)
    fd_infinity(STANDARD, drawn(few, 1.0, 0.0, 0))
    with pytest.raises(ValueError, match=f"measure on {few} samples or more"):
        fd_infinity(STANDARD, drawn(few - 1, 1.0, 0.0, 0))
