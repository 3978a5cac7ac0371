"""Nearest training images against brute force."""

import math

import pytest
import torch

from slimctl.models.metrics import nearest as module
from slimctl.models.metrics.nearest import nearest_distance, own_distance


def images(count, seed, channels=3, size=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


def brute_force(samples, training):
    differences = samples.double()[:, None] - training.double()[None]
    return differences.flatten(2).square().mean(dim=2).sqrt()


def test_agrees_with_brute_force_whatever_the_tiles(monkeypatch):
    samples, training = images(30, seed=0), images(50, seed=1)
    expected = brute_force(samples, training).min(dim=1)
    for rows, columns in [(2048, 4096), (7, 9)]:
        monkeypatch.setattr(module, "TILE_ROWS", rows)
        monkeypatch.setattr(module, "TILE_COLUMNS", columns)
        found = nearest_distance(samples, training)
        assert torch.equal(found.index, expected.indices)
        torch.testing.assert_close(found.distance, expected.values, rtol=1e-14, atol=0)


def test_near_copies_among_near_copies_are_reported_apart():
    # A hundred training images within 1e-4 of each other, far from 0: in float32 the matrix
    # product could not rank them.
    base = images(1, seed=2, size=32) * 0.01 + 0.9
    training = base.double() + 1e-4 * images(100, seed=3, size=32).double()
    chosen = torch.arange(100).flip(0)
    samples = training[chosen] + 1e-6 * images(100, seed=4, size=32).double()
    found = nearest_distance(samples, training)
    assert torch.equal(found.index, chosen)
    exact = (samples - training[chosen]).flatten(1).square().mean(dim=1).sqrt()
    assert torch.equal(found.distance, exact)


def test_copies_are_at_exactly_zero_and_one_grey_level_is_what_it_is():
    training = images(20, seed=5)
    assert nearest_distance(training.flip(0), training).distance.eq(0).all()
    found = nearest_distance(training.double() + 1 / 127.5, training.double())
    torch.testing.assert_close(found.distance, torch.full((20,), 1 / 127.5).double())


def test_the_own_image_is_left_out():
    training = images(40, seed=6)
    distances = brute_force(training, training)
    distances.fill_diagonal_(math.inf)
    found = nearest_distance(training, training, own_index=torch.arange(40))
    assert torch.equal(found.index, distances.argmin(dim=1))
    twins = torch.cat([training, training])
    found = nearest_distance(twins, twins, own_index=torch.arange(80))
    assert torch.equal(found.index, (torch.arange(80) + 40) % 80)
    assert found.distance.eq(0).all()


def test_real_images_have_the_median_of_their_own_distances():
    training = images(80, seed=11)
    others = brute_force(training, training)
    others.fill_diagonal_(math.inf)
    median = others.min(dim=1).values.quantile(0.5)
    assert own_distance(training) == pytest.approx(float(median), rel=1e-12)


def test_the_draw_of_real_images_is_a_function_of_the_seed():
    training = images(300, seed=13)
    first = own_distance(training, real_count=20, seed=1)
    assert first == own_distance(training, real_count=20, seed=1)
    assert first != own_distance(training, real_count=20, seed=2)


def test_refuses_what_cannot_be_compared():
    good = images(5, seed=14)
    with pytest.raises(ValueError, match=r"\(3, 4, 4\), training images \(3, 2, 2\)"):
        nearest_distance(good, images(5, seed=15, size=2))
    with pytest.raises(ValueError, match="samples: NaN or infinity"):
        nearest_distance(good * math.nan, good)
    with pytest.raises(ValueError, match="training images: 0 samples"):
        nearest_distance(good, good[:0])
    with pytest.raises(ValueError, match="training images: 1 samples, but at least 2"):
        nearest_distance(good[:1], good[:1], own_index=torch.tensor([0]))
    with pytest.raises(ValueError, match="real_count is 0"):
        own_distance(good, real_count=0)
