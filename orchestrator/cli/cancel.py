"""Stops a run."""

from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import Address, Run, Storage, open_store


def cancel(
    run: Run = None,
    storage: Storage = None,
    address: Address = None,
    checkpoint: Annotated[
        bool,
        typer.Option(
            "--checkpoint", help="Let trainings make a checkpoint of the moment; a minute at most."
        ),
    ] = False,
) -> None:
    """Stop a run: its devices are free within seconds, its checkpoints stay."""
    from slimctl.orchestrator.running.lifecycle import cancel as cancel_run
    from slimctl.orchestrator.running.lifecycle import stop
    from slimctl.orchestrator.runs.runs import find_run

    store = open_store(storage)
    name = find_run(store.blobs, run)
    status = stop(store, name) if checkpoint else cancel_run(store, name, address=address)
    typer.echo(f"run {name}: {status.state}\n  continue: slimctl resume {name}", err=True)
