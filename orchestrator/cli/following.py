"""Following a run that others supervise, from anywhere that sees its storage."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from slimctl.orchestrator.runs.status import OVER

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.runs.events import LogRead
    from slimctl.orchestrator.runs.status import RunStatus

POLL_S = 1.0
PATIENCE_S = 120.0
"""How long a run on a cluster may be without a supervisor: Ray takes a while to miss a node."""


def readings(
    store: "Store", run: str, *, follow: bool, poll_s: float = POLL_S
) -> "Iterator[tuple[RunStatus, LogRead]]":
    """What the storage has of a run: once, or again and again until the run is over.

    A run whose supervisor is gone is waited for where that comes back; how to continue it is said
    at the end.
    """
    from slimctl.orchestrator.runs.runs import read_run, run_lease

    silent_s = 0.0
    while True:
        state, log = read_run(store.blobs, run)
        yield state, log
        if not follow or state.state in OVER:
            return
        silent_s = silent_s + poll_s if state.state == "interrupted" else 0.0
        if silent_s and (
            silent_s > PATIENCE_S or not run_lease(store.blobs, run).holder().get("back")
        ):
            break
        if silent_s == poll_s:
            typer.echo(f"run {run}: its supervisor is silent; waiting for another", err=True)
        time.sleep(poll_s)
    typer.echo(f"run {run}: {state.state}\n  continue: slimctl resume {run}", err=True)
