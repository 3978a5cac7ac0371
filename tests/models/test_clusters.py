"""Clusters of equal size: against exchanges of all pairs, and of more points than those take."""

import resource
import sys

import numpy as np
import pytest

from slimctl.models.clusters import balanced_clusters, nearest_cluster
from slimctl.models.partition import balanced_kmeans


def blobs(count, width, centres=6, seed=0, spread=0.5):
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((centres, width))
    which = rng.integers(0, centres, count)
    return (means[which] + spread * rng.standard_normal((count, width))).astype(np.float32)


def cost(points, part):
    centres = [points[part == k].mean(axis=0) for k in range(part.max() + 1)]
    return np.square(points - np.stack(centres)[part]).sum()


@pytest.mark.parametrize(("count", "parts"), [(90, 4), (91, 3), (60, 7)])
def test_the_cost_is_that_of_exchanging_pairs(count, parts):
    points = blobs(count, 5)
    found = balanced_clusters(points, parts, 1)
    held = np.bincount(found.part)
    assert held.max() - held.min() <= 1
    known = np.empty(count, dtype=int)
    for part, members in enumerate(balanced_kmeans(points.astype(float), parts, 1)):
        known[list(members)] = part
    assert cost(points, found.part) <= 1.1 * cost(points, known)


def test_centres_and_prices_tell_where_a_point_belongs():
    points = blobs(4001, 16).astype(np.float16)
    found = balanced_clusters(points, 4, 0)
    assert sorted(np.bincount(found.part)) == [1000, 1000, 1000, 1001]
    again = nearest_cluster(points, found.centres, found.prices)
    assert (again == found.part).mean() > 0.999
    others = nearest_cluster(blobs(4000, 16, seed=0)[2000:], found.centres, found.prices)
    assert np.bincount(others, minlength=4).min() > 300
    first = [int((found.part == part).argmax()) for part in range(4)]
    assert first == sorted(first)
    same = balanced_clusters(points, 4, 0)
    assert np.array_equal(same.part, found.part)


def test_equal_points_and_single_clusters_are_split_too():
    held = np.bincount(balanced_clusters(np.ones((10, 3), np.float32), 3, 0).part)
    assert sorted(held) == [3, 3, 4]
    assert balanced_clusters(blobs(5, 2), 1, 0).part.tolist() == [0] * 5
    assert sorted(balanced_clusters(blobs(5, 2), 5, 0).part) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("points", "count", "message"),
    [
        (np.full((4, 2), np.nan, np.float32), 2, "no table of finite numbers"),
        (np.ones(4, np.float32), 2, "no table of finite numbers"),
        (np.ones((3, 2), np.float32), 4, "cannot be split into 4"),
    ],
)
def test_what_cannot_be_clustered(points, count, message):
    with pytest.raises(ValueError, match=message):
        balanced_clusters(points, count, 0)


@pytest.mark.slow
def test_half_a_million_rows_take_less_than_two_gib():
    points = np.concatenate([blobs(10_000, 384, seed=at).astype(np.float16) for at in range(50)])
    found = balanced_clusters(points, 4, 0)
    assert np.bincount(found.part).tolist() == [125_000] * 4
    unit = 2**20 if sys.platform != "darwin" else 2**30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit < 2.0
