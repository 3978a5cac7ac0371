"""Stops a run."""

import typer

from slimctl.orchestrator.cli.options import Address, Run, Storage, open_store


def cancel(run: Run = None, storage: Storage = None, address: Address = None) -> None:
    """Stop a run: its devices are free within seconds, its checkpoints stay."""
    from slimctl.orchestrator.running.lifecycle import cancel as cancel_run
    from slimctl.orchestrator.runs.runs import find_run

    store = open_store(storage)
    name = find_run(store.blobs, run)
    status = cancel_run(store, name, address=address)
    typer.echo(f"run {name}: {status.state}\n  continue: slimctl resume {name}", err=True)
