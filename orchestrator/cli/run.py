"""The verbs that take a pipeline file: check, plan, submit."""

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from slimctl.orchestrator.cli.control import interrupted, tell_result
from slimctl.orchestrator.cli.options import (
    DEFAULT_TFLOPS,
    Address,
    Detach,
    File,
    Json,
    Overrides,
    Storage,
    Tflops,
    load,
    mistakes_as_json,
    warn,
)
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.cli.stopping import exit_code

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline import Pipeline


def check(
    file: File, overrides: Overrides = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Check a pipeline file; every mistake at once, nothing is started."""
    from slimctl.orchestrator.submission import check as check_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, reads=True)
        doubtful = check_pipeline(pipeline)
    warn(doubtful)
    if as_json:
        found = {"name": pipeline.name, "jobs": list(pipeline.specs), "warnings": doubtful}
        echo(json.dumps(found, default=asdict))
    else:
        warned = f", {len(doubtful)} warning{'s'[len(doubtful) == 1 :]}" if doubtful else ""
        echo(f"{file}: {_size(pipeline)}, no mistakes{warned}")


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
    tflops: Tflops = None,
    as_json: Json = False,
) -> None:
    """Say what a submission would do and cost: per job reuse, resume or run, and why."""
    from slimctl.orchestrator.cli.tables import print_plan
    from slimctl.orchestrator.cluster import devices_here
    from slimctl.orchestrator.estimate import plan_json
    from slimctl.orchestrator.submission import plan as plan_pipeline

    here = devices_here()
    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, draft=not as_json)
        tflops = tflops or (DEFAULT_TFLOPS if here.gpus else None)
        found = plan_pipeline(pipeline, tflops=tflops)
    if as_json:
        data = plan_json(found.plan, found.cost) | {"warnings": found.warnings}
        echo(json.dumps(data, indent=1, default=asdict))
    else:
        print_plan(found.plan, found.cost, here)
    warn(found.warnings)
    pipeline.tell(found.missing)


def submit(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Run a pipeline to its end; what the store has is not made again."""
    from slimctl.orchestrator.cli.live import open_view
    from slimctl.orchestrator.job_server import is_job_server
    from slimctl.orchestrator.submission import submit as submit_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, reads=True)
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
                on_wait=view.waits,
                on_doubts=view.doubts,
            )
    except KeyboardInterrupt as interrupt:
        typer.echo(interrupted(view.run, address), err=True)
        sys.exit(exit_code(interrupt))
    tell_result(result, detach=detach, as_json=as_json)


def hand_over(address: str, pipeline: "Pipeline", *, detach: bool, as_json: bool) -> None:
    """Lets the head of a cluster run a pipeline; this machine may then leave."""
    from slimctl.orchestrator.job_server import echo, leave_notice, run_on_job_server
    from slimctl.orchestrator.pipeline import to_yaml

    words = ["submit", "pipeline.yaml", *(["--json"] if as_json else [])]
    files = {"pipeline.yaml": to_yaml(pipeline)}
    submission = run_on_job_server(address, pipeline.name, words, files, detach=detach, tell=echo)
    if detach:
        typer.echo(leave_notice(submission, address), err=True)
        echo(submission)
