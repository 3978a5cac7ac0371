"""The verbs that look into a storage: status, show, logs."""

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Storage, open_store

if TYPE_CHECKING:
    from jobs.storage.store import Store
    from orchestrator.status import RunStatus

Run = Annotated[str | None, typer.Argument(help="Run id or its beginning.", show_default=False)]
Thing = Annotated[
    str | None,
    typer.Argument(help="RUN, RUN/JOB or the beginning of an artifact id; else the latest run."),
]
LONG_FIELDS = ("id", "shards", "rows", "transfer")
"""Fields of a handle that are shown elsewhere or are too long."""


def status(run: Run = None, storage: Storage = None, as_json: Json = False) -> None:
    """List the runs of a storage, or the jobs of one run."""
    from orchestrator.runs import find_run, read_status, run_ids

    store = open_store(storage)
    if run is None:
        found = [read_status(store.blobs, name) for name in run_ids(store.blobs)]
        _print_runs(found, as_json)
        return
    state = read_status(store.blobs, find_run(store.blobs, run))
    if as_json:
        typer.echo(state.model_dump_json(indent=1, exclude={"jobs": {"__all__": {"points"}}}))
    else:
        _print_jobs(state)


def _print_runs(found: "list[RunStatus]", as_json: bool) -> None:
    from orchestrator.cli.live import clock
    from orchestrator.cli.tables import print_table

    if as_json:
        fields = {"run", "name", "state", "started", "ended"}
        typer.echo(json.dumps([s.model_dump(include=fields) | {"jobs": s.counts()} for s in found]))
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


def _print_jobs(state: "RunStatus") -> None:
    from orchestrator.cli.live import clock, numbers
    from orchestrator.cli.tables import print_table

    typer.echo(f"{state.run}: {state.state}")
    rows = [
        (
            name,
            job.kind,
            job.state,
            clock(job.seconds(time.time())) if job.started else "",
            f"{job.done:,}/{job.total:,}" if job.total else "",
            job.message or numbers(job.metrics),
            job.artifact,
        )
        for name, job in state.jobs.items()
    ]
    print_table(("job", "kind", "state", "took", "done", "last", "artifact"), rows)


def show(thing: Thing = None, storage: Storage = None, as_json: Json = False) -> None:
    """Show a run's results, or an artifact: its handle, inputs, settings and files."""
    from jobs.base.artifacts import StepReport
    from orchestrator.cli.tables import print_steps

    store = open_store(storage)
    run, artifact = find_thing(store, thing)
    if artifact is None:
        _show_run(store, run, as_json)
        return
    manifest = store.manifest(artifact)
    assert manifest is not None
    if as_json:
        typer.echo(manifest.model_dump_json(indent=1))
        return
    typer.echo(f"{artifact}: {manifest.type} made by {manifest.kind} in {manifest.wall_s:.1f} s")
    sections: dict[str, Any] = {
        "handle": {k: v for k, v in manifest.handle.items() if k not in LONG_FIELDS},
        "settings": manifest.spec,
        "inputs": manifest.inputs,
        "engine": manifest.engine,
        "files": {k: f"{v.size:,} bytes" for k, v in manifest.files.items()},
    }
    for title, content in sections.items():
        if content:
            typer.echo(f"\n{title}")
            _print_mapping(content)
    handle = store.load_any(artifact)
    if isinstance(handle, StepReport):
        print_steps({artifact: handle})
    for note in manifest.notes:
        typer.echo(f"\nnote: {note}")
    if sections.get("files"):
        typer.echo(f"\nfolder: {store.uri}/artifacts/{artifact}")


def _print_mapping(content: dict[str, Any]) -> None:
    from orchestrator.tracking import flatten

    pairs = list(flatten(content))
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        typer.echo(f"  {name.ljust(width)}  {value}")


def _show_run(store: "Store", run: str, as_json: bool) -> None:
    from orchestrator.cli.tables import print_quality, print_steps
    from orchestrator.results import quality_reports, run_json, step_reports
    from orchestrator.runs import read_status

    state = read_status(store.blobs, run)
    if as_json:
        typer.echo(json.dumps(run_json(store, state)))
        return
    _print_jobs(state)
    typer.echo("")
    print_quality(quality_reports(store, state))
    print_steps(step_reports(store, state))


def find_thing(store: "Store", thing: str | None) -> tuple[str, str | None]:
    """What a name means: (run, None) for a run, (run or "", artifact id) for an artifact.

    Raises:
        UserError: it names nothing, or more than one thing.
    """
    from jobs.base.errors import UserError
    from jobs.base.registry import nearest
    from orchestrator.runs import find_run, read_status, run_ids

    if thing is not None and "/" in thing:
        run_name, _, job = thing.partition("/")
        run = find_run(store.blobs, run_name or None)
        jobs = read_status(store.blobs, run).jobs
        if job not in jobs:
            raise UserError(run, f"has no job '{job}'", nearest(job, jobs))
        artifact = jobs[job].artifact
        if store.manifest(artifact) is None:
            raise UserError(f"{run}/{job}", f"has no result: it is {jobs[job].state}")
        return run, artifact
    matches = store.find(thing) if thing else []
    if thing in matches or len(matches) == 1:
        return "", thing if thing in matches else matches[0]
    runs = run_ids(store.blobs)
    if thing is None or any(run.startswith(thing) for run in runs):
        return find_run(store.blobs, thing), None
    if matches:
        what = f"'{thing}' means {len(matches)} artifacts: {', '.join(matches[:5])}"
        raise UserError(store.uri, what, "type more of it")
    known = [*runs[-20:], *store.find("")[-20:]]
    fix = nearest(thing, known) if known else "slimctl submit FILE"
    raise UserError(store.uri, f"there is no run and no artifact '{thing}'", fix)


def logs(run: Run = None, storage: Storage = None) -> None:
    """Print what the jobs of a run said."""
    from orchestrator.cli.live import describe
    from orchestrator.events import read_events
    from orchestrator.runs import find_run
    from orchestrator.status import RunStatus, apply

    store = open_store(storage)
    name = find_run(store.blobs, run)
    state = RunStatus(run=name)
    for event in read_events(store.blobs, name):
        apply(state, event)
        line = describe(event, state) if event.name != "progress" else ""
        if line:
            stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
            typer.echo(f"{stamp} {line}")
