"""Rows against numbers that are counted by hand."""

import numpy as np
import pytest

from slimctl.jobs.steps.measure import advantage, best_fixed, bootstrap_interval, step_row


def row(name, returns, **changes):
    numbers = np.array(returns)
    fields = {"group": "hermite, fixed", "cost": numbers, "error": numbers, "bad_error": 0.0}
    return step_row(name, **fields | {"returns": numbers} | changes)


def test_a_row_is_medians_means_and_shares():
    cost, error = np.array([1.0, 2.0, 9.0]), np.array([1e-3, 1e-6, np.inf])
    made = step_row("a", "g", cost, error, bad_error=1e-4, learned=True)
    assert (made.cost, made.mean_cost, made.error, made.error_p90) == (2.0, 4.0, 1e-3, 1e-3)
    assert made.bad_share == pytest.approx(2 / 3)
    assert (made.mean_return, made.return_low, made.return_high) == (None, None, None)
    assert step_row("a", "g", cost, np.full(3, np.inf), 1.0).error is None, "no number in JSON"


def test_the_best_fixed_steps_are_neither_learned_nor_adaptive():
    rows = [
        row("small", [-3.0, -3.0]), row("large", [-2.0, -2.0]),
        row("rk45", [0.0, 0.0], group="rk45"), row("policy", [1.0, 1.0], learned=True),
    ]  # fmt: skip
    assert best_fixed(rows) == 1


def test_an_advantage_is_taken_episode_by_episode():
    """What an episode costs whoever plays it is no uncertainty of the difference."""
    hard = np.array([0.0, -100.0, -1000.0])
    rows = [row("fixed", hard), row("policy", hard + 2.0, learned=True)]
    assert advantage(rows, [hard, hard + 2.0]) == (2.0, 2.0, 2.0)


def test_an_interval_is_the_same_each_time_and_holds_the_mean():
    values = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high
