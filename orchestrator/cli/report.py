"""The verb that writes a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import Run, Storage, open_store
from slimctl.orchestrator.cli.output import echo


def report(
    run: Run = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="HTML file to write; else called after the run."),
    ] = None,
    trajectories: Annotated[
        bool, typer.Option(help="Follow some samples of the flows, which evaluates them.")
    ] = True,
    storage: Storage = None,
) -> None:
    """Write one self-contained HTML page about a run: models, samples, curves, jobs."""
    from slimctl.orchestrator.results.report import gather, render
    from slimctl.orchestrator.runs.runs import find_run

    store = open_store(storage)
    name = find_run(store.blobs, run)
    target = output or Path(f"{name}.html")
    text = render(gather(store, name, trajectories=trajectories))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    echo(str(target))
