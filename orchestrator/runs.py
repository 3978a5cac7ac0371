"""The record of each run in the storage: its pipeline, its events, and a lease while it lives.

A storage that stumbles delays nothing: what a supervisor could not write is kept and written later.
"""

import contextlib
import hashlib
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Any

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.base.registry import nearest
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.lease import RENEW_EVERY_S, Lease
from slimctl.jobs.storage.sealed import seal
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.events import Event, EventLog, LogRead, read_log
from slimctl.orchestrator.plan import RunPlan
from slimctl.orchestrator.status import RunStatus, apply, fold, interrupt

SUM_MARK = "# sha256 "
FLUSH_S = 1.0
FINAL_FLUSH_S = 60.0
"""How long the last events are offered to a storage that does not take them."""
TRACKING_GRACE_S = 60.0
INCOMPLETE = "tracking is incomplete"


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


def forget_cancel(blobs: Blobs, run: str) -> None:
    """Lets a cancelled run go on."""
    blobs.delete(f"runs/{run}/cancel.json")


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


class RunRecord:
    """The record of one run, written by one supervisor, which may come back when it dies."""

    def __init__(self, run: str, plan: RunPlan, *, comes_back: bool = False) -> None:
        self._run = run
        self._plan = plan
        self._blobs = Store(plan.storage).blobs
        self._lease = run_lease(self._blobs, run, comes_back=comes_back)
        self._lock = threading.Lock()
        self._log = EventLog(self._blobs, run)
        self._status = fold(run, self._log.events)
        self._tracker: Any = None
        self._durable = self._tracked = 0
        """Number of events that the storage has, and that the tracker was given."""
        self._flushed_s = self._leased_s = 0.0
        self.superseded = False
        """Whether another supervisor took the run over."""

    def begin(self) -> None:
        """Takes the run over from whoever supervised it before."""
        self._lease.renew()
        self._log.take_over()

    def add(self, event: str, job: str = "", /, **details: Any) -> None:
        """Notes an event; it becomes durable within about a second."""
        with self._lock:
            apply(self._status, self._log.add(event, job, **details))

    def job(self, name: str) -> Any:
        """What is known of a job now."""
        return self._status.jobs[name]

    def status(self) -> RunStatus:
        """The state of the run now."""
        with self._lock:
            return self._status.model_copy(deep=True)

    def events_since(self, number: int) -> list[Event]:
        """Events from `number` on."""
        with self._lock:
            return self._log.events[number:]

    def has_event(self, name: str, **details: Any) -> bool:
        """Whether such an event of the run itself was noted, with these details among others."""
        with self._lock:
            return any(
                event.name == name and details.items() <= event.details.items()
                for event in self._log.events
            )

    def keep(self) -> bool:
        """Writes what is due; returns whether somebody asked for the run to be cancelled."""
        now = time.monotonic()
        asked = False
        with contextlib.suppress(OSError):  # a storage that stumbles is written to a second later
            if now - self._flushed_s >= FLUSH_S:
                self._flushed_s = now
                asked = is_to_cancel(self._blobs, self._run)
                self._flush()
                self._track()
            if now - self._leased_s >= RENEW_EVERY_S:
                self.superseded = self.superseded or self._log.is_fenced()
                self._lease.renew()
                self._leased_s = now
        return asked

    def end(self) -> None:
        """Makes everything durable, here and in MLflow; waits for a storage that is away."""
        deadline = time.monotonic() + FINAL_FLUSH_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._flush()
                break
            time.sleep(FLUSH_S)
        self._finish_tracking()
        with contextlib.suppress(OSError):
            self._lease.end()

    def _flush(self) -> None:
        """Makes all events durable."""
        with self._lock:
            self._log.flush()
            self._durable = len(self._log.events)

    def start_tracking(self) -> None:
        """Starts MLflow's copy, if the plan has a place for it."""
        if self._plan.tracking is None:
            return
        import ray

        from slimctl.orchestrator.tracking import Tracker

        self._tracker = (
            ray.remote(Tracker)
            .options(num_cpus=0, max_restarts=3)
            .remote(self._run, self._plan.model_dump(mode="json"))
        )

    def _track(self) -> None:
        """Hands new events, which are in the store, to the tracker without waiting for it."""
        fresh = self._log.events[self._tracked : self._durable]
        if fresh and self._tracker is not None:
            self._tracked = self._durable
            self._tracker.push.remote([event.model_dump() for event in fresh])

    def _finish_tracking(self) -> None:
        if self._tracker is None:
            return
        import ray

        self._track()
        try:
            problem = ray.get(self._tracker.finish.remote(), timeout=TRACKING_GRACE_S)
        except ray.exceptions.RayError as error:
            problem = f"{type(error).__name__}"
        if problem:
            what = f"{INCOMPLETE}: {problem}; slimctl resume {self._run} completes it"
            self.add("warning", message=what)
            with contextlib.suppress(OSError):
                self._flush()
