"""Continues a run."""

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from slimctl.orchestrator.cli.options import Address, Detach, Json, Run, Storage, open_store
from slimctl.orchestrator.cli.output import echo, exit_code
from slimctl.orchestrator.running.notice import is_notice

if TYPE_CHECKING:
    from slimctl.orchestrator.running.submission import Submission


def resume(
    run: Run = None,
    storage: Storage = None,
    address: Address = None,
    detach: Detach = False,
    as_json: Json = False,
) -> None:
    """Continue a run that was interrupted, cancelled or failed, here or on any cluster."""
    from slimctl.orchestrator.cli.live import open_view
    from slimctl.orchestrator.running.job_server import (
        echo,
        is_job_server,
        leave_notice,
        run_on_job_server,
    )
    from slimctl.orchestrator.running.lifecycle import resume as resume_run
    from slimctl.orchestrator.runs.runs import find_run

    store = open_store(storage)
    name = find_run(store.blobs, run)
    if is_job_server(address):
        words = ["resume", name, "--storage", store.uri, *(["--json"] if as_json else [])]
        made = run_on_job_server(str(address), name, words, {}, detach=detach, tell=echo)
        typer.echo(leave_notice(made, str(address)) if detach else "", err=True)
        return
    view = open_view(quiet=bool(os.environ.get("SLIMCTL_QUIET")))
    try:
        with view:
            result = resume_run(
                store,
                name,
                address=address,
                detach=detach,
                listener=view.event,
                on_plan=view.plan,
                on_wait=view.waits,
            )
    except KeyboardInterrupt as interrupt:
        typer.echo(interrupted(name, address, interrupt), err=True)
        sys.exit(exit_code(interrupt))
    tell_result(result, detach=detach, as_json=as_json)


def interrupted(run: str, address: str | None, interrupt: KeyboardInterrupt) -> str:
    """What becomes of a run whose program is interrupted."""
    if not run:
        return "interrupted: nothing was started"
    if address is None:
        what = "preempted" if is_notice(interrupt) else "interrupted"
        return (
            f"{what}: run {run} stopped; finished jobs and checkpoints are kept\n"
            f"  continue: slimctl resume {run}"
        )
    return f"interrupted: run {run} goes on at {address}\n  look: slimctl logs {run} -f"


def tell_result(result: "Submission", *, detach: bool, as_json: bool) -> None:
    """Prints how a submission ended, and raises what it should end the program with."""
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.cli.tables import print_quality
    from slimctl.orchestrator.results.collect import chosen_lines, quality_reports, run_json
    from slimctl.orchestrator.running.submission import check_result

    store = Store(result.plan.storage)
    if detach and result.status.ended is None:
        typer.echo(
            f"run {result.run} is on its way\n  look: slimctl logs {result.run} -f", err=True
        )
        echo(json.dumps({"run": result.run, "state": "running"}) if as_json else result.run)
        return
    if not result.started_ray:
        typer.echo(f"nothing to do: the store has every result (run {result.run})", err=True)
    if as_json:
        echo(json.dumps(run_json(store, result.status)))
    else:
        print_quality(quality_reports(store, result.status), chosen_lines(store, result.status))
    check_result(result)
