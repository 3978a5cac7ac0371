import math

import pytest
from pydantic import ValidationError
from scipy import stats

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.kinds.sweep import Sweep
from slimctl.jobs.search.propose import PENALTY, Halving, Learner, grid, random
from slimctl.jobs.search.spec import Asha, Dimension

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


JOBS = {"data": {"kind": "load_dataset", "source": "digits", "max_images": "${n}"}}


def learner() -> Learner:
    """A search over choices of any type and a range, for the smallest count."""
    jobs = {"data": {**JOBS["data"], "limit": "${limit}", "rate": "${rate}"}}
    space = {"n": {"choice": [{"c": 8}, {"c": 16}]}, "limit": {"randint": [1, 3]},
             "rate": {"loguniform": [1e-4, 1e-2]}}  # fmt: skip
    return Learner(
        Sweep.model_validate(
            {"space": space, "jobs": jobs, "minimize": "data.count", "seed": 3,
             "search": {"kind": "optuna", "trials": 9}}
        )
    )  # fmt: skip


def ended(number: int, state: str = "done") -> Trial:
    return Trial(values={}, state=state, metrics={"data.count": float(number % 4)})


def test_a_learner_that_hears_the_same_proposes_the_same():
    proposals = []
    for _ in range(2):
        one = learner()
        made = [one.propose(0), one.propose(1)]
        for number in range(7):
            one.learn(number, ended(number, "failed" if number == 2 else "done"))
            made.append(one.propose(number + 2))
        assert one.propose(8) == made[8], "a proposal that was not noted is made again"
        proposals.append(made)
    assert proposals[0] == proposals[1]
    assert all(values["n"] in ({"c": 8}, {"c": 16}) for values in proposals[0])
    assert all(values["limit"] in (1, 2, 3) for values in proposals[0])
    assert all(1e-4 <= values["rate"] <= 1e-2 for values in proposals[0])


def test_a_trial_that_did_not_end_well_is_a_bad_one():
    one = learner()
    heard = []
    one._searcher.on_trial_complete = lambda number, result: heard.append(result)
    for number, state in enumerate(("done", "failed", "filtered", "stopped")):
        one.learn(number, ended(number, state))
    assert heard == [{"data.count": 0.0}, *[{"data.count": PENALTY}] * 3]


def test_successive_halving_stops_those_behind():
    halving = Halving(Asha(watch="student", grace_period=10, reduction_factor=2), 40)
    assert not halving.falls_behind(0, 5, 9.0), "before the grace period nobody is judged"
    assert not halving.falls_behind(0, 10, 1.0)
    assert halving.falls_behind(1, 10, 2.0)
    assert not halving.falls_behind(2, 10, 0.5)
    assert not halving.falls_behind(2, 20, 0.4)
    assert halving.falls_behind(0, 20, 0.6)
    assert not halving.falls_behind(2, 40, 9.0), "what follows the training is worth having then"
