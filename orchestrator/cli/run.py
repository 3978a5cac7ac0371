"""The verbs that take a pipeline file: check, plan, submit."""

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.control import interrupted, tell_result
from orchestrator.cli.options import (
    Address,
    Detach,
    File,
    Json,
    Overrides,
    Storage,
    load,
    mistakes_as_json,
)

if TYPE_CHECKING:
    from orchestrator.pipeline import Pipeline


def check(
    file: File, overrides: Overrides = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Check a pipeline file; every mistake at once, nothing is started."""
    from orchestrator.graph import Graph, preflight
    from orchestrator.pipeline import resolve

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage)
        resolved = resolve(pipeline)
        preflight(resolved, Graph.of(resolved))
    if as_json:
        typer.echo(json.dumps({"name": pipeline.name, "jobs": list(pipeline.jobs)}))
    else:
        typer.echo(f"{file}: {len(pipeline.jobs)} jobs, no mistakes")


def plan(
    file: File, overrides: Overrides = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Say what a submission would do: per job reuse, resume or run, and why."""
    from jobs.storage.store import Store
    from orchestrator.cli.tables import print_table
    from orchestrator.graph import Graph
    from orchestrator.pipeline import resolve
    from orchestrator.planner import make_plan

    with mistakes_as_json(as_json):
        pipeline = resolve(load(file, overrides, storage))
        made = make_plan(pipeline, Graph.of(pipeline), Store(pipeline.storage))
    if as_json:
        typer.echo(made.model_dump_json(indent=1))
        return
    rows = [(job.name, job.kind, job.action, job.reason, job.artifact) for job in made.jobs]
    print_table(("job", "kind", "action", "why", "artifact"), rows)


def submit(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline to its end; what the store has is not made again."""
    from orchestrator.cli.live import open_view
    from orchestrator.job_server import is_job_server
    from orchestrator.submission import submit as submit_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage)
    if is_job_server(address):
        hand_over(str(address), pipeline, detach=detach, as_json=as_json)
        return
    view = open_view(quiet=bool(os.environ.get("SLIMCTL_QUIET")))
    try:
        with mistakes_as_json(as_json), view:
            result = submit_pipeline(
                pipeline,
                address=address,
                detach=detach,
                listener=view.event,
                on_plan=view.plan,
            )
    except KeyboardInterrupt:
        typer.echo(interrupted(view.run, address), err=True)
        sys.exit(130)
    tell_result(result, detach=detach, as_json=as_json)


def hand_over(address: str, pipeline: "Pipeline", *, detach: bool, as_json: bool) -> None:
    """Lets the head of a cluster run a pipeline; this machine may then leave."""
    from orchestrator.job_server import echo, leave_notice, run_on_job_server
    from orchestrator.pipeline import to_yaml

    words = ["submit", "pipeline.yaml", *(["--json"] if as_json else [])]
    files = {"pipeline.yaml": to_yaml(pipeline)}
    submission = run_on_job_server(address, pipeline.name, words, files, detach=detach, tell=echo)
    if detach:
        typer.echo(leave_notice(submission, address), err=True)
        typer.echo(submission)
