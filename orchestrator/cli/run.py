"""The verbs that take a pipeline file: check, plan, submit."""

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import (
    DEFAULT_TFLOPS,
    Address,
    File,
    Json,
    Overrides,
    Storage,
    Tflops,
    load,
    mistakes_as_json,
)

if TYPE_CHECKING:
    from orchestrator.pipeline import Pipeline

WITH_IMAGES = ("Dataset", "Flow", "PairSet")
"""Results whose images the estimate of a plan needs; a file may have to be read for them."""


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
        typer.echo(json.dumps({"name": pipeline.name, "jobs": list(pipeline.specs)}))
    else:
        typer.echo(f"{file}: {_size(pipeline)}, no mistakes")


def _size(pipeline: "Pipeline") -> str:
    """`25 jobs, 18 of them in the group students (6 iterations of 3)`."""
    made = pipeline.made
    groups = [
        f"{name} ({len(made.iterations[name])} iterations of {len(group.jobs)})"
        for name, group in made.groups.items()
    ]
    inside = f", {len(made.origins)} of them in groups: {', '.join(groups)}" if groups else ""
    return f"{len(pipeline.specs)} jobs{inside}"


def plan(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    tflops: Tflops = DEFAULT_TFLOPS,
    as_json: Json = False,
) -> None:
    """Say what a submission would do and cost: per job reuse, resume or run, and why."""
    from jobs.storage.store import Store
    from orchestrator.cli.tables import print_plan
    from orchestrator.estimate import estimate, plan_json
    from orchestrator.graph import Graph, known_facts, preflight
    from orchestrator.pipeline import resolve
    from orchestrator.planner import make_plan

    with mistakes_as_json(as_json):
        pipeline = resolve(load(file, overrides, storage))
        graph = Graph.of(pipeline)
        made = make_plan(pipeline, graph, Store(pipeline.storage))
        facts = known_facts(pipeline, graph)
        if any(known.image is None and known.made in WITH_IMAGES for known in facts.values()):
            facts = preflight(pipeline, graph)
    found = estimate(pipeline, graph, facts, made, tflops)
    if as_json:
        typer.echo(json.dumps(plan_json(made, found), indent=1))
    else:
        print_plan(made, found)


def submit(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline to its end; what the store has is not made again."""
    from jobs.storage.store import Store
    from orchestrator.cli.live import open_view
    from orchestrator.cli.tables import print_quality
    from orchestrator.results import quality_reports, run_json
    from orchestrator.submission import check_result
    from orchestrator.submission import submit as submit_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage)
    view = open_view(quiet=bool(os.environ.get("SLIMCTL_QUIET")))
    try:
        with mistakes_as_json(as_json), view:
            result = submit_pipeline(
                pipeline, address=address, listener=view.event, on_plan=view.plan
            )
    except KeyboardInterrupt:
        typer.echo(_interrupted(view.run, file, address), err=True)
        sys.exit(130)
    store = Store(result.plan.storage)
    if not result.started_ray:
        typer.echo(f"nothing to do: the store has every result (run {result.run})", err=True)
    if as_json:
        typer.echo(json.dumps(run_json(store, result.status)))
    else:
        print_quality(quality_reports(store, result.status))
    check_result(result)


def _interrupted(run: str, file: File, address: str | None) -> str:
    if address is None:
        return (
            f"interrupted: run {run or '(not started)'} stopped; finished jobs and checkpoints are "
            f"kept\n  continue: slimctl submit {file}"
        )
    return f"interrupted: run {run} goes on at {address}\n  look: slimctl status {run}"
