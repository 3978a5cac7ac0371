"""Shows results, and finds what a name on the command line means."""

import json
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.cli.options import Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.cli.status import print_jobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slimctl.jobs.storage.store import Store


Thing = Annotated[
    str | None,
    typer.Argument(help="RUN, RUN/JOB or the beginning of an artifact id; else the latest run."),
]


LONG_FIELDS = ("id", "shards", "rows", "transfer")
"""Fields of a handle that are shown elsewhere or are too long."""


def show(thing: Thing = None, storage: Storage = None, as_json: Json = False) -> None:
    """Show a run's results, or an artifact: its handle, inputs, settings and files."""
    from slimctl.jobs.base.artifacts import StepReport
    from slimctl.jobs.base.errors import UserError
    from slimctl.orchestrator.cli.tables import print_steps

    store = open_store(storage)
    run, artifact = find_thing(store, thing)
    if artifact is None:
        _show_run(store, run, as_json)
        return
    manifest = store.manifest(artifact)
    assert manifest is not None
    if as_json:
        echo(manifest.model_dump_json(indent=1))
        return
    echo(f"{artifact}: {manifest.type} made by {manifest.kind} in {manifest.wall_s:.1f} s")
    handle_fields = {k: v for k, v in manifest.handle.items() if k not in LONG_FIELDS}
    _print_section("handle", handle_fields)
    _print_section("settings", manifest.spec)
    _print_section("inputs", manifest.inputs)
    _print_section("engine", manifest.engine)
    _print_section("files", {k: f"{v.size:,} bytes" for k, v in manifest.files.items()})
    notes = list(manifest.notes)
    try:
        handle = store.load_any(artifact)
    except UserError as error:  # of a package that is not installed here
        notes.append(str(error))
    else:
        if isinstance(handle, StepReport):
            print_steps({artifact: handle})
    for note in notes:
        echo(f"\nnote: {note}")
    if manifest.files:
        echo(f"\nfolder: {store.uri}/artifacts/{artifact}")
    _print_origin(store, artifact)


def _print_origin(store: "Store", artifact: str) -> None:
    """Everything that an artifact was made from, and the command that would make it again."""
    from slimctl.orchestrator.results.lineage import Lineage
    from slimctl.orchestrator.runs.runs import run_of

    lineage = Lineage(store)
    echo("\nmade from")
    shown: set[str] = set()

    def visit(one: str, field: str, depth: int) -> None:
        made = lineage.manifest(one)
        again = " (above)" if one in shown and lineage.inputs(one) else ""
        kind = made.kind if made else "no longer in the store"
        echo(f"  {'  ' * depth}{field}{one} ({kind}){again}")
        if one not in shown:
            shown.add(one)
            for name, source in lineage.inputs(one):
                visit(source, f"{name}: ", depth + 1)

    visit(artifact, "", 0)
    run = run_of(store.blobs, artifact)
    if run and "://" in store.uri:
        echo(f"\nmade by run {run}; slimctl resume {run} makes what is missing of it")
    elif run:
        echo(
            f"\nmake it again: slimctl submit {quote(f'{store.uri}/runs/{run}/pipeline.yaml')} "
            f"--storage {quote(store.uri)}"
        )


def _print_section(title: str, content: "Mapping[str, Any]") -> None:
    from slimctl.orchestrator.running.tracking import flatten

    pairs = list(flatten(content))
    if content:
        echo(f"\n{title}")
    for name, value in pairs:
        echo(f"  {name.ljust(max(len(name) for name, _ in pairs))}  {value}")


def _show_run(store: "Store", run: str, as_json: bool) -> None:
    from slimctl.orchestrator.cli.tables import print_quality, print_steps
    from slimctl.orchestrator.results.collect import (
        chosen_lines,
        quality_reports,
        run_json,
        step_reports,
    )
    from slimctl.orchestrator.runs.runs import read_status

    state = read_status(store.blobs, run)
    if as_json:
        echo(json.dumps(run_json(store, state)))
        return
    print_jobs(state)
    echo("")
    print_quality(quality_reports(store, state), chosen_lines(store, state))
    print_steps(step_reports(store, state))


def find_thing(store: "Store", thing: str | None) -> tuple[str, str | None]:
    """What a name means: (run, None) for a run, (run or "", artifact id) for an artifact.

    Raises:
        UserError: it names nothing, or more than one thing.
    """
    from slimctl.jobs.base.registry import nearest
    from slimctl.orchestrator.cli.tables import collapsed
    from slimctl.orchestrator.runs.runs import find_run, read_status, run_ids

    if thing is not None and "/" in thing:
        run_name, _, job = thing.partition("/")
        run = find_run(store.blobs, run_name or None)
        jobs = read_status(store.blobs, run).jobs
        job = _job_meant(job, jobs)
        if job not in jobs:
            names = [row.jobs[0] for row in collapsed(jobs)]
            raise UserError(run, f"has no job '{job}'", nearest(job, names))
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


def find_model_id(store: "Store", name: str) -> str:
    """The artifact that a name means where a model is wanted.

    Raises:
        UserError: it names a run, nothing, or more than one thing.
    """
    _, artifact = find_thing(store, name)
    if artifact is None:
        raise UserError(name, "names a run, not a model", f"name a job of it: {name}/JOB")
    return artifact


def _job_meant(name: str, jobs: "Iterable[str]") -> str:
    """The job that `students[width=8,seed=0].quality` is, if exactly one fits; else the name."""
    from slimctl.orchestrator.pipeline.groups import split_iteration

    group, bracket, rest = name.partition("[")
    wanted, _, member = rest.partition("].")
    if not bracket:
        return name
    values = {part.replace(" ", "") for part in wanted.split(",")}
    found = [
        job
        for job in jobs
        if job.startswith(f"{group}.")
        and job.endswith(f".{member}")
        and values <= set(split_iteration(job[len(group) + 1 : -len(member) - 1]))
    ]
    return found[0] if len(found) == 1 else name
