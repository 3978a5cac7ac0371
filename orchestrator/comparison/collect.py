"""Finds the results that a user names: of runs, of jobs or groups of runs, of a pipeline file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slimctl.jobs.base.artifacts import QualityReport, SweepReport
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.jobs.base.spec import output_type
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.graph import Graph
from slimctl.orchestrator.groups import origin_of
from slimctl.orchestrator.pipeline import Pipeline
from slimctl.orchestrator.plan import make_plan
from slimctl.orchestrator.runs import find_run, read_status

FINISHED = ("done", "reused")


@dataclass(frozen=True)
class Result:
    """A measured model.

    Args:
        run: run that it is from; the name of the file where a pipeline was named.
        job: name of the job that measured it.
        report: what was measured.
    """

    run: str
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
    """Finds measurements.

    Args:
        store: where results are.
        things: RUN, RUN/JOB, RUN/GROUP, or a key of `pipelines`; none = the latest run.
        pipelines: file -> its resolved pipeline.

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
