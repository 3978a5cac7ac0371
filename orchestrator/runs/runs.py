"""What the storage holds of each run: its pipeline, its events, and a lease while it lives."""

import hashlib
import secrets
import time
from datetime import UTC, datetime

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.base.registry import nearest
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.lease import Lease
from slimctl.jobs.storage.sealed import seal
from slimctl.orchestrator.runs.events import LogRead, read_log
from slimctl.orchestrator.runs.status import RunStatus, fold, interrupt

SUM_MARK = "# sha256 "


def new_run_id(name: str) -> str:
    """`<pipeline>-<UTC date>-<time>-<eight hex digits>`: ids sort by the time they were made.

    The first five digits are the fraction of the second, the others are random.
    """
    now = datetime.now(UTC)
    fraction = now.microsecond * 2**20 // 1_000_000
    return f"{name}-{now:%Y%m%d-%H%M%S}-{fraction:05x}{secrets.randbits(12):03x}"


def save_pipeline(blobs: Blobs, run: str, text: str) -> None:
    """Keeps the resolved pipeline with the run; its last line is a checksum."""
    mark = f"{SUM_MARK}{hashlib.sha256(text.encode()).hexdigest()}\n"
    blobs.write(f"runs/{run}/pipeline.yaml", (text + mark).encode())


def read_pipeline(blobs: Blobs, run: str) -> str:
    """The resolved pipeline of a run as YAML.

    Raises:
        DamagedArtifact: it is not there, or not what was written.
    """
    name = f"runs/{run}/pipeline.yaml"
    try:
        text, mark, digest = blobs.read(name).decode().rpartition(SUM_MARK)
    except (FileNotFoundError, UnicodeDecodeError):
        text = mark = digest = ""
    if not mark or hashlib.sha256(text.encode()).hexdigest() != digest.rstrip("\n"):
        raise DamagedArtifact(
            name,
            "is missing or not what was written",
            "submit the pipeline file again: finished work is kept",
        )
    return text


def run_lease(blobs: Blobs, run: str, *, comes_back: bool = False) -> Lease:
    """The lease of a run's supervisor, which may come back when it dies."""
    return Lease(blobs, f"runs/{run}/lease.json", comes_back=comes_back)


def ask_to_cancel(blobs: Blobs, run: str) -> None:
    """Leaves word for the supervisor, wherever it is."""
    blobs.write(f"runs/{run}/cancel.json", seal({"time": time.time()}))


def is_to_cancel(blobs: Blobs, run: str) -> bool:
    """Whether somebody asked for the run to stop."""
    return blobs.exists(f"runs/{run}/cancel.json")


def ask_to_stop(blobs: Blobs, run: str) -> None:
    """Leaves word for the supervisor to stop at a checkpoint of the moment."""
    blobs.write(f"runs/{run}/stop.json", seal({"time": time.time()}))


def is_to_stop(blobs: Blobs, run: str) -> bool:
    """Whether somebody asked for the run to stop at a checkpoint."""
    return blobs.exists(f"runs/{run}/stop.json")


def forget_cancel(blobs: Blobs, run: str) -> None:
    """Lets a run go on that was cancelled or asked to stop."""
    blobs.delete(f"runs/{run}/cancel.json")
    blobs.delete(f"runs/{run}/stop.json")


def run_ids(blobs: Blobs) -> list[str]:
    """All runs, oldest first."""
    return sorted(blobs.folders("runs"), key=lambda run: run.rsplit("-", 3)[-3:])


def run_of(blobs: Blobs, artifact: str) -> str:
    """The newest run that had an artifact among its jobs; "" if there is none."""
    for run in reversed(run_ids(blobs)):
        if any(job.artifact == artifact for job in read_run(blobs, run)[0].jobs.values()):
            return run
    return ""


def read_run(blobs: Blobs, run: str) -> tuple[RunStatus, LogRead]:
    """The state of a run and the log it is from; one whose supervisor is gone is `interrupted`."""
    log = read_log(blobs, run)
    status = fold(run, log.events)
    if status.state == "running" and not run_lease(blobs, run).is_alive():
        interrupt(status, max((event.time for event in log.events), default=0.0))
    return status, log


def read_status(blobs: Blobs, run: str) -> RunStatus:
    """The state of a run from its events; a run whose supervisor is gone is `interrupted`."""
    return read_run(blobs, run)[0]


def find_run(blobs: Blobs, name: str | None) -> str:
    """The run meant by an id, an unambiguous beginning of one, or a pipeline's name; or the latest.

    Of several runs of a pipeline it is the latest, and so for None.

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
    of_pipeline = [run for run in runs if run.rsplit("-", 3)[0] == name]
    if of_pipeline:
        return of_pipeline[-1]
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
