"""One trial: its jobs one after another, each an artifact of its own."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Handle, Trial
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import Ended, JobRunner, Reporter
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import canonical_json
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.seeds import derive_seed
from slimctl.jobs.base.subgraph import SubJob, trial_jobs, trial_specs
from slimctl.jobs.search.sizes import beyond, latency_on, sizes_known
from slimctl.jobs.search.spec import Asha, Limit
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.score_curve import noted_scores

MAX_ATTEMPTS = 6
"""Of a job: its worker may be killed by whoever shares the machine; a pause that doubles before
each other one, half a minute in all, outlasts a node that goes or an operator at work."""
FOLDER = "trials"
CANNOT_BE = (UserError, ValidationError, ValueError, OSError)
"""What building the jobs of a trial raises where its values do not go together."""


class Stopped(Exception):  # noqa: N818  (nothing went wrong)
    """The trial is not worth going on with."""


class Place(Protocol):
    """Runs a job somewhere that has room for it; raises Stopped once the trial is to end."""

    def __call__(self, job: SubJob) -> Ended: ...


@dataclass(frozen=True)
class SweepTask:
    """All that a trial needs, by pickle.

    Args:
        job: name of the sweep.
        artifact_id: of the sweep; finished trials are noted in its work folder.
        templates: name -> plain data of a job.
        outside: name of an outside job -> artifact id.
        limits: `JOB.FIELD` -> limit.
        seed: of the jobs that name none.
        store: where results are.
        cluster: the whole cluster.
        runner: runs a job in the process it is called in.
        reporter: takes progress.
        total: number of trials.
        goals: `JOB.FIELD` of each number that is to be small.
        early: which trials are stopped before their end; None = none.
        longest: most optimizer steps of the job that `early` watches.
    """

    job: str
    artifact_id: str
    templates: Mapping[str, Any]
    outside: Mapping[str, str]
    limits: Mapping[str, Limit]
    seed: int
    store: Store
    cluster: Cluster
    runner: JobRunner
    reporter: Reporter
    total: int
    goals: tuple[str, ...] = ()
    early: Asha | None = None
    longest: int = 1

    @property
    def notes(self) -> Blobs:
        """Folder of the notes of finished trials."""
        return self.store.work(self.artifact_id).below(FOLDER)

    def handles(self) -> dict[str, Handle]:
        """Results of the jobs outside."""
        return {name: self.store.load_any(one) for name, one in self.outside.items()}


def run_trial(task: SweepTask, values: Mapping[str, Any], place: Place) -> Trial:
    """Runs the jobs of a trial until one fails; never raises for what a trial does wrong."""
    handles = task.handles()
    try:
        specs = trial_specs(task.templates, values, task.seed)
        jobs = trial_jobs(specs, task.outside)
        known = sizes_known(specs, handles, task.limits, latency_on(task.cluster))
    except CANNOT_BE as error:
        return Trial(values=dict(values), state="failed", why=_first_line(error))
    over = beyond(known, task.limits)
    if over:
        return Trial(values=dict(values), state="filtered", why=over)
    artifacts: dict[str, str] = {}
    metrics: dict[str, float] = {}
    for job in jobs:
        try:
            ended = _run_job(replace(job, name=f"{in_words(values)}: {job.name}"), place)
        except Stopped:
            why = "its scores fell behind those of other trials"
            return Trial(
                values=dict(values), state="stopped", artifacts=artifacts, metrics=metrics, why=why
            )
        if ended.what:
            why = f"{job.name}: {ended.what}"
            return Trial(
                values=dict(values), state="failed", artifacts=artifacts, metrics=metrics, why=why
            )
        artifacts[job.name] = job.artifact
        metrics |= numbers(job.name, task.store.load_any(job.artifact))
    return Trial(values=dict(values), state="done", artifacts=artifacts, metrics=metrics)


def _run_job(job: SubJob, place: Place) -> Ended:
    ended = Ended("it was never started", retry=True)
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            time.sleep(2.0 ** (attempt - 1))
        ended = place(job)
        if not ended.retry:
            break
    return ended


def numbers(job: str, handle: Handle) -> dict[str, float]:
    """The measured numbers of a result as `JOB.FIELD`."""
    return {
        f"{job}.{name}": float(value)
        for name, value in handle
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]


def scores_of(store: Store, artifact: str) -> Mapping[int, float]:
    """Optimizer step -> score of a training that is finished or under way, in rising order."""
    manifest = store.manifest(artifact)
    if manifest is None:
        return noted_scores(store.work(artifact))
    return {int(step): value for step, value in manifest.engine.get("scores", {}).items()}


def note(task: SweepTask, trial: Trial) -> int:
    """Writes a finished trial down; returns how many there are."""
    text = json.dumps({"time": time.time(), "trial": trial.model_dump(mode="json")})
    task.notes.write(_note_name(trial.values), text.encode())
    return len(task.notes.names(""))


def noted_before(task: SweepTask, values: Mapping[str, Any]) -> Trial | None:
    """What an earlier attempt noted of a trial; None if it has not come to its end."""
    try:
        text = task.notes.read(_note_name(values))
    except FileNotFoundError:
        return None
    return Trial.model_validate(json.loads(text)["trial"])


def _note_name(values: Mapping[str, Any]) -> str:
    return f"{derive_seed(0, canonical_json(values)):016x}.json"


def noted(task: SweepTask) -> list[Trial]:
    """Trials that finished in this or an earlier attempt, in the order in which they did."""
    found = [json.loads(task.notes.read(name)) for name in task.notes.names("")]
    return [Trial.model_validate(one["trial"]) for one in sorted(found, key=lambda n: n["time"])]
