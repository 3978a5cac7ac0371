"""Finds results: what one run made, and what a user names of runs, groups and pipeline files."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slimctl.jobs.base.artifacts import Handle, QualityReport, StepReport, SweepReport
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.jobs.base.spec import output_type
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.groups import origin_of
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.plan import make_plan
from slimctl.orchestrator.runs.runs import find_run, read_status
from slimctl.orchestrator.runs.status import RunStatus

FINISHED = ("done", "reused")


@dataclass(frozen=True)
class Result:
    """What a job measured of a model."""

    run: str
    """Run that it is from; the name of the file where a pipeline was named."""
    job: str
    report: QualityReport

    @property
    def name(self) -> str:
        """`RUN/JOB`."""
        return f"{self.run}/{self.job}"


@dataclass(frozen=True)
class Missing:
    """A measurement that was asked for and is not there."""

    run: str
    job: str
    state: str
    """failed, blocked, running, ..."""
    why: str = ""


@dataclass
class Found:
    """All that was named, each measurement once."""

    results: list[Result] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


@dataclass(frozen=True)
class _Job:
    """A job of a run or of a pipeline, as far as it matters here."""

    run: str
    name: str
    artifact: str
    state: str
    why: str = ""


def collect(store: Store, things: Sequence[str], pipelines: Mapping[str, Pipeline]) -> Found:
    """Finds measurements by RUN, RUN/JOB, RUN/GROUP or a key of `pipelines`; none = the latest run.

    Raises:
        UserError: a name means nothing, or nothing has been measured.
    """
    jobs: dict[str, _Job] = {}
    for thing in things or [""]:
        named = _planned(store, thing, pipelines[thing]) if thing in pipelines else None
        for job in _of_run(store, thing) if named is None else named:
            jobs.setdefault(job.artifact, job)
    found = Found()
    for job in jobs.values():
        if job.state in FINISHED:
            found.results.append(Result(job.run, job.name, store.load(job.artifact, QualityReport)))
        else:
            found.missing.append(Missing(job.run, job.name, job.state, job.why))
    if not found.results:
        asked = f"; {len(found.missing)} evaluation(s) are not done" if found.missing else ""
        raise UserError(", ".join(things) or store.uri, f"nothing has been measured{asked}")
    return found


def _of_run(store: Store, thing: str) -> Iterator[_Job]:
    """Evaluations of a run, or those of it that are named."""
    name, slash, part = thing.partition("/")
    run = find_run(store.blobs, name or None)
    jobs = read_status(store.blobs, run).jobs
    known: dict[str, None] = {}
    count = 0
    for job, status in jobs.items():
        if not _measures(status.kind, status.state):
            continue
        origin = origin_of(job)
        names = {job, *((origin.group, origin.short) if origin else ())}
        known |= dict.fromkeys(names)
        if not slash or part in names:
            count += 1
            yield _Job(run, job, status.artifact, status.state, status.message)
    if slash and not count:
        fix = nearest(part, known) if known else "name another run"
        raise UserError(run, f"has no job or group '{part}' that measures anything", fix)


def _planned(store: Store, file: str, pipeline: Pipeline) -> Iterator[_Job]:
    """Evaluations of a pipeline, whichever run made them."""
    for job in make_plan(pipeline, Graph.of(pipeline), store).jobs:
        state = "done" if job.action == "reuse" else "not made yet"
        if _measures(job.kind, state):
            yield _Job(Path(file).name, job.name, job.artifact, state)


def _measures(kind: str, state: str) -> bool:
    """Whether a job is a measurement; one that a search stopped is none, its trials are jobs."""
    try:
        made = output_type(load_kind(kind))
    except UserError:  # of a package that is not installed here
        return False
    searches = issubclass(made, SweepReport) and state not in FINISHED
    return state != "stopped" and (searches or issubclass(made, QualityReport))


def run_json(store: Store, status: RunStatus) -> dict[str, Any]:
    """The run as one JSON object: run, state, and per job kind, key, state, seconds, artifact.

    `artifact` is the handle of the result, or null if there is none. A failed or blocked job also
    has `error` and `fix`.
    """
    jobs = {}
    for name, job in status.jobs.items():
        finished = job.state in FINISHED
        jobs[name] = {
            "kind": job.kind,
            "key": job.key,
            "state": job.state,
            "seconds": round(job.seconds(time.time()), 3),
            "artifact": store.plain(job.artifact) if finished else None,
        }
        if job.state in ("failed", "blocked"):
            jobs[name] |= {"error": job.message, "fix": job.fix}
    return {"run": status.run, "state": status.state, "jobs": jobs}


def quality_reports(store: Store, status: RunStatus) -> dict[str, QualityReport]:
    """Reports of the run's finished evaluations: the largest network first, then the most steps."""
    found: dict[str, QualityReport] = {}
    for name, handle in _finished(store, status).items():
        if isinstance(handle, QualityReport):
            found[name] = handle
    return dict(sorted(found.items(), key=lambda item: (-item[1].parameters, -item[1].nfe)))


def chosen_lines(store: Store, status: RunStatus) -> list[str]:
    """What each finished sweep of the run chose, in a sentence."""
    reports = _finished(store, status).items()
    return [f"{name}: {verdict(one)}" for name, one in reports if isinstance(one, SweepReport)]


def verdict(report: SweepReport) -> str:
    """What a sweep found, in a sentence."""
    states = [trial.state for trial in report.trials]
    done = f"{states.count('done')} of {len(states)} trials done"
    ruled_out = states.count("filtered")
    done += f", {ruled_out} ruled out by size" if ruled_out else ""
    done += f", {states.count('stopped')} stopped early" if "stopped" in states else ""
    done += f", {states.count('failed')} failed" if "failed" in states else ""
    goals = ", ".join(report.objectives)
    if report.chosen is not None:
        best = report.trials[report.chosen]
        value = best.metrics[report.objectives[0]]
        return f"{in_words(best.values)} has the lowest {goals}, {value:.4g} ({done})"
    if len(report.objectives) > 1 and report.front:
        front = "; ".join(in_words(report.trials[number].values) for number in report.front)
        return f"on the front of {goals}: {front} ({done})"
    return f"nothing meets the limits ({done})"


def step_reports(store: Store, status: RunStatus) -> dict[str, StepReport]:
    """Reports of the run's step policies, in the order of the jobs."""
    handles = _finished(store, status).items()
    return {name: handle for name, handle in handles if isinstance(handle, StepReport)}


def _finished(store: Store, status: RunStatus) -> dict[str, Handle]:
    """Results of the run's finished jobs, but damaged ones."""
    found: dict[str, Handle] = {}
    for name, job in status.jobs.items():
        if job.state in FINISHED:
            with contextlib.suppress(DamagedArtifact, UserError):
                found[name] = store.load_any(job.artifact)
    return found
