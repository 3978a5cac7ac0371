import math

import pytest
from pydantic import ValidationError
from scipy import stats

from slimctl.jobs.search.candidates import grid, random
from slimctl.jobs.search.spec import Dimension

SPACE = {
    "a": Dimension(choice=("x", {"k": 1})),
    "b": Dimension(uniform=(2, 4)),
    "c": Dimension(loguniform=(1e-4, 1e-2)),
    "d": Dimension(randint=(1, 3)),
}


def test_a_grid_is_every_combination():
    space = {"a": Dimension(choice=(1, 2)), "b": Dimension(choice=("x", "y"))}
    assert grid(space) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip


def test_more_trials_keep_the_first_ones():
    few = random(SPACE, 5, seed=3)
    assert random(SPACE, 9, seed=3)[:5] == few
    assert random(SPACE, 5, seed=4) != few


def test_draws_follow_their_distributions():
    drawn = random(SPACE, 2000, seed=0)
    uniform = [(one["b"] - 2) / 2 for one in drawn]
    logs = [(math.log10(one["c"]) + 4) / 2 for one in drawn]
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(logs, "uniform").pvalue > 1e-3
    counts = [sum(one["d"] == value for one in drawn) for value in (1, 2, 3)]
    assert sum(counts) == 2000
    assert stats.chisquare(counts).pvalue > 1e-3
    assert {str(one["a"]) for one in drawn} == {"x", "{'k': 1}"}


@pytest.mark.parametrize(
    "fields",
    [{}, {"choice": []}, {"uniform": [2, 1]}, {"loguniform": [0, 1]}, {"randint": [1, 1]},
     {"randint": [1, 2], "uniform": [0, 1]}],
)  # fmt: skip
def test_empty_ranges_are_refused(fields):
    with pytest.raises(ValidationError):
        Dimension.model_validate(fields)
