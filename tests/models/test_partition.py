"""Balanced subsets against exhaustive search, and what an explicit list may get wrong."""

import itertools

import numpy as np
import pytest

from slimctl.models.partition import (
    balanced_kmeans,
    check_subsets,
    consecutive,
    shuffled,
    sizes,
    strided,
)


def cost(points, subsets):
    return sum(
        np.square(points[list(subset)] - points[list(subset)].mean(axis=0)).sum()
        for subset in subsets
    )


@pytest.mark.parametrize(("conditions", "count"), [(10, 5), (10, 4), (7, 7), (9, 1), (1000, 8)])
def test_every_way_splits_evenly_and_loses_nothing(conditions, count):
    points = np.random.default_rng(0).normal(size=(conditions, 3))
    ways = [consecutive(conditions, count), strided(conditions, count)]
    ways += [shuffled(conditions, count, seed=1)]
    if conditions < 100:
        ways.append(balanced_kmeans(points, count, seed=1))
    for subsets in ways:
        check_subsets(subsets, conditions)
        assert sorted(map(len, subsets)) == sorted(sizes(conditions, count))
        assert all(list(subset) == sorted(subset) for subset in subsets)


def test_what_the_ways_look_like():
    assert consecutive(8, 3) == ((0, 1, 2), (3, 4, 5), (6, 7))
    assert strided(8, 3) == ((0, 3, 6), (1, 4, 7), (2, 5))
    assert shuffled(100, 4, seed=1) == shuffled(100, 4, seed=1) != shuffled(100, 4, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_kmeans_is_as_good_as_trying_everything(seed):
    points = np.random.default_rng(seed).normal(size=(8, 2))
    halves = (
        (half, tuple(sorted(set(range(8)) - set(half))))
        for half in itertools.combinations(range(8), 4)
    )
    best = min(cost(points, subsets) for subsets in halves)
    assert cost(points, balanced_kmeans(points, 2, seed)) == pytest.approx(best, rel=1e-12)


def test_kmeans_finds_groups_in_any_order():
    rng = np.random.default_rng(0)
    home = rng.permutation(np.arange(40) % 4)
    points = 10.0 * np.eye(4)[home] + 0.1 * rng.normal(size=(40, 4))
    subsets = balanced_kmeans(points, 4, seed=0)
    assert {frozenset(subset) for subset in subsets} == {
        frozenset(np.flatnonzero(home == group).tolist()) for group in range(4)
    }


def test_kmeans_holds_the_sizes_where_the_groups_are_uneven():
    points = np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0]])
    assert balanced_kmeans(points, 2, seed=0) == ((0, 1, 2), (3, 4, 5))


def test_kmeans_of_equal_points_ends():
    assert sorted(map(len, balanced_kmeans(np.zeros((5, 2)), 2, seed=0))) == [2, 3]


@pytest.mark.parametrize("points", [np.zeros(4), np.full((4, 2), np.nan)])
def test_kmeans_refuses_what_is_no_table(points):
    with pytest.raises(ValueError, match="no table of finite numbers"):
        balanced_kmeans(points, 2, seed=0)


@pytest.mark.parametrize("count", [0, 11])
def test_more_subsets_than_conditions_are_refused(count):
    with pytest.raises(ValueError, match=f"10 conditions cannot be split into {count}"):
        consecutive(10, count)


@pytest.mark.parametrize(
    ("subsets", "message"),
    [
        (((0, 1), (1, 2, 3)), "label 1 is in the subsets 0, 1"),
        (((0, 1), (2,)), "label 3 in no subset"),
        (((0,), (1,)), "labels 2, 3 in no subset"),
        (((0, 1), (2, 3), ()), "subset 2 is empty"),
        (((0, 1, 2, 3), (4,)), "there is no label 4, only 0..3"),
    ],
)
def test_a_list_names_each_label_once(subsets, message):
    with pytest.raises(ValueError, match=message):
        check_subsets(subsets, 4)
