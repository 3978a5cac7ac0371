"""Lists runs, or the jobs of one."""

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.orchestrator.cli.options import Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slimctl.orchestrator.runs.events import LogRead
    from slimctl.orchestrator.runs.status import JobStatus, RunStatus


RunOrGroup = Annotated[
    str | None,
    typer.Argument(
        help="Run id or its beginning; RUN/GROUP for every job of a group.", show_default=False
    ),
]


def status(run: RunOrGroup = None, storage: Storage = None, as_json: Json = False) -> None:
    """List the runs of a storage, or the jobs of one run."""
    from slimctl.orchestrator.runs.runs import find_run, read_run, run_ids

    store = open_store(storage)
    name, slash, group = (run or "").partition("/")
    if run is None and not as_json and not run_ids(store.blobs):
        typer.echo(f"{store.uri}: no runs yet\n  start one: slimctl submit FILE", err=True)
        return
    names = run_ids(store.blobs) if run is None else [find_run(store.blobs, name or None)]
    found = [read_run(store.blobs, name) for name in names]
    if run is None:
        _print_runs([state for state, _ in found], as_json)
    else:
        state = found[0][0]
        if slash:
            state.jobs = _jobs_of_group(state, group)
        if as_json:
            echo(state.model_dump_json(indent=1, exclude={"jobs": {"__all__": {"points"}}}))
        else:
            print_jobs(state, together=not slash)
    refuse_damaged(log for _, log in found)


def refuse_damaged(logs_read: "Iterable[LogRead]") -> None:
    """Ends the program with the names of damaged files after what could be read was shown.

    Raises:
        DamagedArtifact: a line of an event log is not what was written.
    """
    damaged = [what for log in logs_read for what in log.damaged]
    if damaged:
        raise DamagedArtifact(
            "", "; ".join(damaged), "what is shown is from the rest; results are not affected"
        )


def _jobs_of_group(state: "RunStatus", group: str) -> "dict[str, JobStatus]":
    from slimctl.jobs.base.registry import nearest
    from slimctl.orchestrator.pipeline.groups import origin_of

    origins = {name: origin_of(name) for name in state.jobs}
    found = {n: state.jobs[n] for n, one in origins.items() if one and one.group == group}
    groups = {one.group for one in origins.values() if one}
    if not found:
        fix = nearest(group, groups) if groups else f"slimctl status {state.run}"
        raise UserError(state.run, f"has no group '{group}'", fix)
    return found


def _print_runs(found: "list[RunStatus]", as_json: bool) -> None:
    from slimctl.orchestrator.cli.tables import print_table
    from slimctl.orchestrator.runs.status import clock

    if as_json:
        fields = {"run", "name", "state", "started", "ended"}
        echo(json.dumps([s.model_dump(include=fields) | {"jobs": s.counts()} for s in found]))
        return
    rows = [
        (
            state.run,
            state.state,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(state.started)) if state.started else "",
            clock((state.ended or time.time()) - state.started) if state.ended else "",
            ", ".join(f"{count} {name}" for name, count in state.counts().items()),
        )
        for state in found
    ]
    print_table(("run", "state", "started", "took", "jobs"), rows)


def print_jobs(state: "RunStatus", *, together: bool = True) -> None:
    """Prints a row per job; the jobs of a large group share rows if that is wanted."""
    from slimctl.orchestrator.cli.tables import MANY, collapsed, print_table

    echo(f"{state.run}: {state.state}{f', {state.waiting}' if state.waiting else ''}")
    rows = [
        _job_row(row.name, [state.jobs[name] for name in row.jobs])
        for row in collapsed(state.jobs, MANY if together else len(state.jobs))
    ]
    print_table(("job", "kind", "state", "took", "done", "last", "artifact"), rows)


def _job_row(name: str, jobs: "list[JobStatus]") -> tuple[str, ...]:
    from slimctl.orchestrator.cli.live import numbers
    from slimctl.orchestrator.cli.tables import counted
    from slimctl.orchestrator.runs.status import clock

    seconds = sum(job.seconds(time.time()) for job in jobs)
    done, total = sum(job.done for job in jobs), sum(job.total for job in jobs)
    first = jobs[0]
    messages = [job.message for job in jobs if job.state == "failed"] or [""]
    return (
        name,
        first.kind,
        counted(job.state for job in jobs),
        clock(seconds) if any(job.started for job in jobs) else "",
        f"{done:,}/{total:,}" if total else "",
        (first.message or numbers(first.metrics)) if len(jobs) == 1 else messages[0],
        first.artifact if len(jobs) == 1 else "",
    )
