"""Runs a pipeline to its end."""

import os
import sys
from typing import TYPE_CHECKING

import typer

from slimctl.orchestrator.cli.options import (
    Address,
    Detach,
    ExpectGpus,
    File,
    Json,
    Overrides,
    Storage,
    load,
    mistakes_as_json,
)
from slimctl.orchestrator.cli.output import exit_code
from slimctl.orchestrator.cli.resume import interrupted, tell_result

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline.pipeline import Pipeline


def submit(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
    expect_gpus: ExpectGpus = None,
    as_json: Json = False,
) -> None:
    """Run a pipeline to its end; what the store has is not made again."""
    from slimctl.orchestrator.cli.live import open_view
    from slimctl.orchestrator.running.job_server import is_job_server
    from slimctl.orchestrator.running.submission import submit as submit_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, reads=True, expect_gpus=expect_gpus)
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
                on_warnings=view.warnings,
            )
    except KeyboardInterrupt as interrupt:
        typer.echo(interrupted(view.run, address, interrupt), err=True)
        sys.exit(exit_code(interrupt))
    tell_result(result, detach=detach, as_json=as_json)


def hand_over(address: str, pipeline: "Pipeline", *, detach: bool, as_json: bool) -> None:
    """Lets the head of a cluster run a pipeline; this machine may then leave."""
    from slimctl.orchestrator.pipeline.pipeline import to_yaml
    from slimctl.orchestrator.running.job_server import echo, leave_notice, run_on_job_server

    words = ["submit", "pipeline.yaml", *(["--json"] if as_json else [])]
    files = {"pipeline.yaml": to_yaml(pipeline)}
    submission = run_on_job_server(address, pipeline.name, words, files, detach=detach, tell=echo)
    if detach:
        typer.echo(leave_notice(submission, address), err=True)
        echo(submission)
