"""Ray Tune around the trials.

Tune decides what is tried next and how much at once. What a trial makes is in the store, and a
note of each finished one in the sweep's work folder, so an attempt after a crash starts Tune anew:
what was finished costs nothing, whatever state Tune's own files are in.

A trial takes no CPU of Ray's: it waits for its jobs, which take what they need. A gate lets only as
many start as the cluster has room for, since a training that waits for its second worker would hold
what another one waits for; and it keeps two trials from making one result twice.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.base.artifacts import Trial
from jobs.base.cluster import Needs
from jobs.base.context import Ended, JobRunner
from jobs.base.subgraph import SubJob
from jobs.search.spec import Dimension, OptunaSearch
from jobs.search.trial import SweepTask, note, noted, run_trial

DRIVER_CPUS = 0.01
"""What a trial holds while its jobs run: with more, jobs would wait for their own trial."""
PENALTY = 1e9
"""Objective of a trial that failed or is too large, for a search that learns from numbers."""


class Gate:
    """Lets jobs in as far as the devices reach, and each result in once at a time."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": cpus, "gpus": gpus}
        self._busy: set[str] = set()
        self._changed = asyncio.Condition()

    async def enter(self, artifact: str, cpus: float, gpus: float) -> None:
        """Waits until there is room."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    artifact not in self._busy
                    and cpus <= self._free["cpus"]
                    and gpus <= self._free["gpus"]
                )
            )
            self._busy.add(artifact)
            self._take(cpus, gpus)

    async def leave(self, artifact: str, cpus: float, gpus: float) -> None:
        """Gives the room back."""
        async with self._changed:
            self._busy.discard(artifact)
            self._take(-cpus, -gpus)
            self._changed.notify_all()

    def _take(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": self._free["cpus"] - cpus, "gpus": self._free["gpus"] - gpus}


@dataclass(frozen=True)
class OnRay:
    """Runs jobs as Ray tasks once the gate has let them in.

    Args:
        task: the sweep.
        gate: handle of the gate.
    """

    task: SweepTask
    gate: Any

    def __call__(self, job: SubJob) -> Ended:
        import ray  # noqa: PLC0415

        if self.task.store.state(job.artifact) == "done":
            return Ended()
        cluster = self.task.cluster
        wanted = job.spec.needs(cluster)
        room = (min(wanted.cpus, cluster.cpus), min(wanted.gpus, cluster.gpus))
        ray.get(self.gate.enter.remote(job.artifact, *room))
        try:
            return self._run(job, wanted)
        except ray.exceptions.RayError as error:
            return Ended(f"its worker died: {type(error).__name__}", retry=True)
        finally:
            ray.get(self.gate.leave.remote(job.artifact, *room))

    def _run(self, job: SubJob, wanted: Needs) -> Ended:
        import ray  # noqa: PLC0415

        shared = job.spec.placement == "shared"
        here = wanted if shared else Needs(cpus=0, gpus=0)
        remote = ray.remote(_work).options(
            num_cpus=here.cpus,
            num_gpus=here.gpus,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # else it would have to fit into its trial's own share
        )
        threads = max(1, int(here.cpus))
        ended: Ended = ray.get(remote.remote(self.task.runner, job, threads, here.gpus > 0))
        return ended


def _work(runner: JobRunner, job: SubJob, threads: int, on_gpu: bool) -> Ended:
    device = "cpu"
    if on_gpu:
        import torch  # noqa: PLC0415

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return runner.run(job, device, threads)


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
    place = OnRay(task, gate)

    def trainable(settings: Mapping[str, Any]) -> None:
        trial = run_trial(task, values(settings), place)
        count = note(task, trial)
        task.reporter.send(task.job, "progress", done=count, total=task.total, metrics={})
        tune.report({name: _goal(trial, name) for name in goals} | {"done": trial.state == "done"})

    with tempfile.TemporaryDirectory(prefix="slimctl-tune-") as folder:
        tune.Tuner(
            tune.with_resources(trainable, {"CPU": DRIVER_CPUS}),
            param_space=dict(space),
            tune_config=tune.TuneConfig(**options),
            run_config=tune.RunConfig(storage_path=folder, name="sweep", verbose=0),
        ).fit()
    ray.kill(gate)


def _goal(trial: Trial, name: str) -> float:
    return trial.metrics.get(name, PENALTY) if trial.state == "done" else PENALTY


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
