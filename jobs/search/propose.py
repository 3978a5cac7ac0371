"""What a search tries next, and which trials it stops.

A grid and random draws are a fixed function of the spec. Ray Tune proposes the rest and judges the
trainings; it runs nothing: the trials' jobs are jobs of the run like any other.
"""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.search.spec import Asha, Dimension, Grid, Random, SearchSpec
from slimctl.jobs.search.trials import Note

PENALTY = 1e9
"""Stands for a number that a trial did not get."""


def candidates(spec: SearchSpec) -> list[dict[str, Any]] | None:
    """What is tried, where that is known before anything runs."""
    if isinstance(spec.search, Grid):
        return grid(spec.space)
    if isinstance(spec.search, Random):
        return random(spec.space, spec.search.trials, spec.seed or 0)
    return None


def grid(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Every combination of the choices, the last variable changing fastest."""
    columns = [one.choice or () for one in space.values()]
    return [dict(zip(space, row, strict=True)) for row in itertools.product(*columns)]


def random(space: Mapping[str, Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Independent draws; draw i depends on the seed and i alone."""
    return [
        {name: _draw(one, derive_seed(seed, "sweep", number, name)) for name, one in space.items()}
        for number in range(count)
    ]


def _draw(dimension: Dimension, seed: int) -> Any:
    import numpy as np  # noqa: PLC0415

    generator = np.random.default_rng(seed)
    if dimension.choice is not None:
        return dimension.choice[int(generator.integers(len(dimension.choice)))]
    low, high = dimension.bounds()
    if dimension.randint:
        return int(generator.integers(int(low), int(high) + 1))
    if dimension.loguniform:
        return math.exp(float(generator.uniform(math.log(low), math.log(high))))
    return float(generator.uniform(low, high))


class Learner:
    """Optuna's TPE as Ray Tune's search algorithm: proposes values from what trials came to.

    The same proposals and ends in the same order give the same values, so that a search is taken
    up again by going through what is noted.

    Args:
        spec: the search.
        notes: all that was proposed before, in order.
    """

    def __init__(self, spec: SearchSpec, notes: Sequence[Note] = ()) -> None:
        import optuna  # noqa: PLC0415
        from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._goals = spec.space, list(spec.objectives)
        several = len(self._goals) > 1
        self._searcher = OptunaSearch(
            space={name: _distribution(optuna.distributions, d) for name, d in spec.space.items()},
            metric=self._goals if several else self._goals[0],
            mode=["min"] * len(self._goals) if several else "min",
            sampler=optuna.samplers.TPESampler(seed=(spec.seed or 0) % 2**32, n_startup_trials=5),
        )

        ended = deque(sorted((one for one in notes if one.trial), key=lambda note: note.order))
        for note in notes:
            while ended and ended[0].order < note.after and ended[0].number < note.number:
                self.learn(ended[0].number, ended.popleft().trial)
            self.propose(note.number)
        for note in ended:
            self.learn(note.number, note.trial)

    def propose(self, number: int) -> dict[str, Any]:
        """Values of the next trial; choices are numbered for Optuna, which takes no mappings."""
        config = self._searcher.suggest(str(number))
        return {
            name: one.choice[config[name]] if one.choice is not None else config[name]
            for name, one in self._space.items()
        }

    def learn(self, number: int, trial: Trial | None) -> None:
        """Takes what a trial came to; one that did not reach its end is a bad one."""
        metrics = trial.metrics if trial and trial.state == "done" else {}
        result = {name: metrics.get(name, PENALTY) for name in self._goals}
        self._searcher.on_trial_complete(str(number), result)


def _distribution(distributions: Any, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return distributions.CategoricalDistribution(list(range(len(dimension.choice))))
    low, high = dimension.bounds()
    if dimension.randint:
        return distributions.IntDistribution(low, high)
    return distributions.FloatDistribution(low, high, log=dimension.loguniform is not None)


class Halving:
    """Ray Tune's asynchronous successive halving.

    Args:
        settings: of the search.
        longest: most optimizer steps of the training that is watched.
    """

    def __init__(self, settings: Asha, longest: int) -> None:
        from ray.tune.schedulers import ASHAScheduler  # noqa: PLC0415

        self._trials: dict[int, SimpleNamespace] = {}
        self._asha = ASHAScheduler(
            time_attr="step",
            metric="score",
            mode="min",
            grace_period=settings.grace_period,
            reduction_factor=settings.reduction_factor,
            max_t=longest,
            stop_last_trials=False,  # what follows the training is worth having then
        )

    def falls_behind(self, number: int, step: int, score: float) -> bool:
        """Takes a score of a trial; returns whether the trial is not worth going on with."""
        if number not in self._trials:
            self._trials[number] = SimpleNamespace(trial_id=str(number))
            self._asha.on_trial_add(None, self._trials[number])
        result = {"step": step, "score": score}
        return bool(self._asha.on_trial_result(None, self._trials[number], result) == "STOP")
