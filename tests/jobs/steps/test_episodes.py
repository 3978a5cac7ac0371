"""What is learned from, chosen by and tested on never meet."""

import torch
from builders import FLOW_PROBLEM, step_policy

from slimctl.jobs.steps import episodes
from slimctl.models.steps.three_body_environment import (
    FIRST_TRAINING_SEED,
    TEST_SEEDS,
    VALIDATION_SEEDS,
)


def test_systems_of_a_kind_of_use_are_its_own():
    assert not set(TEST_SEEDS) & set(VALIDATION_SEEDS)
    assert max(*TEST_SEEDS, *VALIDATION_SEEDS) < FIRST_TRAINING_SEED
    problem = step_policy().problem
    validation = episodes.three_body_validation(problem)
    assert len(validation) == len(VALIDATION_SEEDS)


def test_each_training_seed_has_noises_of_its_own(store, make_dataset, make_analytic, monkeypatch):
    taken: dict[int, torch.Tensor] = {}
    known = episodes.known_noises

    def watched(flow, first, count, *more, **named):
        made = known(flow, first, count, *more, **named)
        taken[first] = made.x0
        return made

    monkeypatch.setattr(episodes, "known_noises", watched)
    monkeypatch.setattr(episodes, "FLOW_VALIDATION", 4)
    flow = make_analytic(make_dataset(count=6))
    problem = step_policy(problem=FLOW_PROBLEM, flow="flow").problem
    for number in range(2):
        episodes.lessons(store, problem, flow, count=2, number=number, seed=0)
    assert sorted(taken) == [
        VALIDATION_SEEDS[0], FIRST_TRAINING_SEED, FIRST_TRAINING_SEED + problem.pool,
    ]  # fmt: skip
    rows = torch.cat(list(taken.values())).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 4 + 2 * problem.pool
