"""The verb that writes a page about a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.orchestrator.cli.options import Run, Storage, open_store
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store

REFRESH_S = 5.0
"""From one page of a followed run to the next."""


def report(
    run: Run = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="HTML file to write; else called after the run."),
    ] = None,
    trajectories: Annotated[
        bool, typer.Option(help="Follow some samples of the flows, which evaluates them.")
    ] = True,
    follow: Annotated[
        bool,
        typer.Option(
            "-f",
            "--follow",
            help="Write it again as the run goes on, until it is over; a browser "
            "that shows it reloads it.",
        ),
    ] = False,
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML page about a run: models, samples, curves, jobs."""
    from slimctl.orchestrator.cli.following import readings
    from slimctl.orchestrator.runs.runs import find_run
    from slimctl.orchestrator.runs.status import OVER

    store = open_store(storage)
    name = find_run(store.blobs, run)
    target = output or Path(f"{name}.html")
    target.parent.mkdir(parents=True, exist_ok=True)
    written = -1
    for state, log in readings(store, name, follow=follow, poll_s=REFRESH_S):
        going_on = follow and state.state not in OVER
        if len(log.events) > written or not going_on:
            _write(store, name, target, trajectories=trajectories and not going_on, again=going_on)
        if written < 0:
            echo(str(target))
        written = len(log.events)
    if going_on:  # nobody goes on with it: the last page does not wait for another
        _write(store, name, target, trajectories=trajectories, again=False)


def _write(store: "Store", run: str, target: Path, *, trajectories: bool, again: bool) -> None:
    """Puts the page in its place at once, so that nobody reads half of it."""
    from slimctl.orchestrator.results.report import gather, render

    page = gather(store, run, trajectories=trajectories)
    part = target.with_name(f"{target.name}.part")
    part.write_text(render(page, reload_s=REFRESH_S if again else None), encoding="utf-8")
    part.replace(target)
