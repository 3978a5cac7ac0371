"""The verb that prints what jobs said, and follows a run from anywhere that sees its storage."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.orchestrator.cli.options import Run, Storage, open_store
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.orchestrator.runs.events import Event

Job = Annotated[str | None, typer.Argument(help="Only this job.", show_default=False)]
Follow = Annotated[
    bool, typer.Option("-f", "--follow", help="Go on until the run is over; ^C leaves it alone.")
]


def logs(run: Run = None, job: Job = None, follow: Follow = False, storage: Storage = None) -> None:
    """Print what the jobs of a run reported."""
    from slimctl.orchestrator.cli.following import readings
    from slimctl.orchestrator.cli.status import refuse_damaged
    from slimctl.orchestrator.runs.runs import find_run

    store = open_store(storage)
    run_name, slash, of_run = (run or "").partition("/")
    job = of_run if slash else job
    name = find_run(store.blobs, run_name or None)
    start = 0
    for state, log in readings(store, name, follow=follow):
        if job is not None:
            _check_job(name, job, list(state.jobs))
        start = _print_from(start, name, log.events, job)
    refuse_damaged([log])


def _check_job(run: str, job: str, jobs: list[str]) -> None:
    from slimctl.jobs.base.errors import UserError
    from slimctl.jobs.base.registry import nearest

    if job not in jobs:
        raise UserError(f"run {run}", f"has no job '{job}'", nearest(job, jobs))


def _print_from(start: int, run: str, events: "list[Event]", job: str | None) -> int:
    """Prints the events from number `start` on; returns the number of the next one."""
    from slimctl.orchestrator.cli.live import describe
    from slimctl.orchestrator.runs.status import RunStatus, apply

    state = RunStatus(run=run)
    for event in events:
        apply(state, event)
        line = describe(event, state) if event.name != "progress" else ""
        if line and event.number >= start and job in (None, event.job):
            stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
            echo(f"{stamp} {line}")
    return events[-1].number + 1 if events else start
