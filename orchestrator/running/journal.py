"""The journal of a run: its events, written by one supervisor, and their copy in MLflow.

A storage that stumbles delays nothing: what a supervisor could not write is kept and written later.
"""

import contextlib
import threading
import time
from typing import Any

from slimctl.jobs.storage.lease import RENEW_EVERY_S
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.planning.plan import RunPlan
from slimctl.orchestrator.runs.events import Event, EventLog
from slimctl.orchestrator.runs.runs import is_to_cancel, is_to_stop, run_lease
from slimctl.orchestrator.runs.status import JobStatus, RunStatus, apply, fold

FLUSH_S = 1.0
FINAL_FLUSH_S = 60.0
"""How long the last events are offered to a storage that does not take them."""
TRACKING_GRACE_S = 60.0
INCOMPLETE = "tracking is incomplete"


class Journal:
    """The journal of one run, written by one supervisor, which may come back when it dies."""

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
        self.stops = False
        """Whether somebody asked for the run to stop at a checkpoint."""
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

    def job(self, name: str) -> JobStatus:
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
                self.stops = self.stops or is_to_stop(self._blobs, self._run)
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

        from slimctl.orchestrator.running.tracking import Tracker

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
