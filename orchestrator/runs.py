"""The record of each run in the storage: its pipeline, its events, and a lease while it lives."""

import json
import secrets
import time
from datetime import UTC, datetime

from jobs.base.errors import UserError
from jobs.base.registry import nearest
from jobs.storage.blobs import Blobs
from orchestrator.events import read_events
from orchestrator.status import RunStatus, fold

LEASE_EVERY_S = 5.0
LEASE_VALID_S = 30.0


def new_run_id(name: str) -> str:
    """`<pipeline>-<UTC date>-<time>-<four hex digits>`."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"{name}-{stamp}-{secrets.token_hex(2)}"


def save_pipeline(blobs: Blobs, run: str, text: str) -> None:
    """Keeps the resolved pipeline with the run."""
    blobs.write(f"runs/{run}/pipeline.yaml", text.encode())


def read_pipeline(blobs: Blobs, run: str) -> str:
    """The resolved pipeline of a run as YAML."""
    return blobs.read(f"runs/{run}/pipeline.yaml").decode()


def write_lease(blobs: Blobs, run: str) -> None:
    """Says that the supervisor of the run is alive."""
    blobs.write(f"runs/{run}/lease.json", json.dumps({"time": time.time()}).encode())


def is_alive(blobs: Blobs, run: str) -> bool:
    """Whether the supervisor of the run has given a sign of life within 30 s."""
    try:
        lease = json.loads(blobs.read(f"runs/{run}/lease.json"))
        return time.time() - float(lease["time"]) < LEASE_VALID_S
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def run_ids(blobs: Blobs) -> list[str]:
    """All runs, oldest first."""
    return sorted(blobs.folders("runs"), key=lambda run: run.rsplit("-", 3)[-3:])


def read_status(blobs: Blobs, run: str) -> RunStatus:
    """The state of a run from its events; a run whose supervisor is gone is `interrupted`."""
    status = fold(run, read_events(blobs, run))
    if status.state == "running" and not is_alive(blobs, run):
        status.state = "interrupted"
    return status


def find_run(blobs: Blobs, name: str | None) -> str:
    """The run meant by a name: its id, an unambiguous prefix of it, or None for the latest.

    Raises:
        UserError: there is no such run, or more than one.
    """
    runs = run_ids(blobs)
    if not runs:
        raise UserError(blobs.uri, "there are no runs in this storage", "slimctl submit FILE")
    if name is None:
        return runs[-1]
    if name in runs:
        return name
    matches = [run for run in runs if run.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            blobs.uri,
            f"'{name}' means {len(matches)} runs: {', '.join(matches[-5:])}",
            "type more of it",
        )
    raise UserError(blobs.uri, f"there is no run '{name}'", nearest(name, runs[-20:]))
