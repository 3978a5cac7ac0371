"""Ray Tune around the trials.

Tune decides what is tried next, how much at once and what is stopped early. What a trial makes is
in the store, and a note of each finished one in the sweep's work folder, so an attempt after a
crash starts Tune anew: what was finished costs nothing, whatever state Tune's own files are in.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.search.background import PENALTY, SCORE, STEP, TrialInBackground
from slimctl.jobs.search.place import Gate, OnRay
from slimctl.jobs.search.spec import Dimension, OptunaSearch
from slimctl.jobs.search.trial import MAX_ATTEMPTS, SweepTask, noted

TRIAL_HOLDS = {"memory": 1}
"""What Ray reserves for a trial while its jobs run, bytes. No share of a CPU, however small: of two
CPUs less a hundredth only one could be given to a job."""


def try_candidates(
    task: SweepTask, candidates: Sequence[Mapping[str, Any]], parallel: int
) -> list[Trial]:
    """Tries given settings; returns the trials in their order."""

    def values(config: Mapping[str, Any]) -> Mapping[str, Any]:
        number: int = config["number"]
        return candidates[number]

    space = {"number": {"grid_search": list(range(len(candidates)))}}
    _fit(task, values, (), space, {"max_concurrent_trials": parallel})
    found = {repr(trial.values): trial for trial in noted(task)}
    return [found.get(repr(dict(one))) or _lost(one) for one in candidates]


def search(
    task: SweepTask,
    space: Mapping[str, Dimension],
    settings: OptunaSearch,
    objectives: Sequence[str],
    parallel: int,
) -> list[Trial]:
    """Lets Optuna choose what to try; returns the trials in the order in which they ended."""
    import optuna  # noqa: PLC0415
    from ray.tune.search.optuna import OptunaSearch as Searcher  # noqa: PLC0415

    earlier = [_encoded(space, trial.values) for trial in noted(task)]
    goals = list(objectives)
    searcher = Searcher(
        space={name: _distribution(optuna.distributions, one) for name, one in space.items()},
        metric=goals if len(goals) > 1 else goals[0],
        mode=["min"] * len(goals) if len(goals) > 1 else "min",
        sampler=optuna.samplers.TPESampler(seed=task.seed % 2**32, n_startup_trials=5),
        points_to_evaluate=earlier or None,
    )
    options = {"num_samples": settings.trials, "max_concurrent_trials": parallel}

    def values(config: Mapping[str, Any]) -> Mapping[str, Any]:
        return _decoded(space, config)

    _fit(task, values, goals, {}, {**options, "search_alg": searcher})
    return noted(task)


def _fit(
    task: SweepTask,
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    goals: Sequence[str],
    space: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Lets Tune run all trials; what comes of them is in their notes.

    Args:
        task: the sweep.
        values: Tune's settings of a trial -> values of the variables.
        goals: numbers that the search learns from.
        space: what Tune itself varies.
        options: of its TuneConfig.
    """
    import ray  # noqa: PLC0415
    from ray import tune  # noqa: PLC0415

    cluster = task.cluster
    gate = (
        ray.remote(Gate)
        .options(num_cpus=0, max_concurrency=1000)
        .remote(cluster.cpus, cluster.gpus)
    )
    trainable = _trainable(task, values, goals, gate)
    with tempfile.TemporaryDirectory(prefix="slimctl-tune-") as folder:
        tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([TRIAL_HOLDS])),
            param_space=dict(space),
            tune_config=tune.TuneConfig(**options, scheduler=_scheduler(task)),
            run_config=tune.RunConfig(
                storage_path=folder,
                name="sweep",
                verbose=0,
                callbacks=[_leaving(gate)],
                failure_config=tune.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
            ),
        ).fit()
    ray.kill(gate)


def _trainable(
    task: SweepTask,
    values: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    goals: Sequence[str],
    gate: Any,
) -> type:
    """What Tune runs for each trial; arguments as of `_fit`, and the handle of the gate."""
    from ray import tune  # noqa: PLC0415

    unknown = dict.fromkeys(goals, PENALTY)

    class OneTrial(tune.Trainable):  # type: ignore[misc]
        """A point is a score of the training that is watched; the last one tells the goals."""

        def setup(self, config: Mapping[str, Any]) -> None:
            place = OnRay(task, gate, self.trial_id)
            self._trial = TrialInBackground(task, values(config), place, place.stop)

        def step(self) -> dict[str, Any]:
            return self._trial.next(unknown)

        def cleanup(self) -> None:
            self._trial.end()

    return OneTrial


def _leaving(gate: Any) -> Any:
    """Tune's callback by which trials whose process died leave the gate."""
    import ray  # noqa: PLC0415
    from ray import tune  # noqa: PLC0415

    class Leaving(tune.Callback):  # type: ignore[misc]
        """Called on an error whether or not the trial is tried again."""

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            ray.get(gate.leave.remote(trial.trial_id))

        on_trial_recover = on_trial_error

    return Leaving()


def _scheduler(task: SweepTask) -> Any:
    """Tune's scheduler; None = every trial runs to its end."""
    from ray.tune.schedulers import ASHAScheduler  # noqa: PLC0415

    if task.early is None:
        return None
    return ASHAScheduler(
        time_attr=STEP,
        metric=SCORE,
        mode="min",
        grace_period=task.early.grace_period,
        reduction_factor=task.early.reduction_factor,
        max_t=task.longest,
        stop_last_trials=False,  # what follows the training is worth having then
    )


def _lost(values: Mapping[str, Any]) -> Trial:
    return Trial(values=dict(values), state="failed", why="its process died")


def _distribution(distributions: Any, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return distributions.CategoricalDistribution(list(range(len(dimension.choice))))
    low, high = dimension.bounds()
    if dimension.randint:
        return distributions.IntDistribution(low, high)
    return distributions.FloatDistribution(low, high, log=dimension.loguniform is not None)


def _decoded(space: Mapping[str, Dimension], config: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a suggestion; choices are numbered, since Optuna takes no mappings."""
    return {
        name: one.choice[config[name]] if one.choice is not None else config[name]
        for name, one in space.items()
    }


def _encoded(space: Mapping[str, Dimension], values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: values[name] if one.choice is None else one.choice.index(values[name])
        for name, one in space.items()
    }
