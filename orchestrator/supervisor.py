"""The actor that drives one run to its end.

It holds nothing that is not in the store: a restarted supervisor finds what is finished there,
finds running jobs by the name of their actors, and goes on.
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.base.cluster import Cluster, Needs
from jobs.base.registry import parse_job
from jobs.execution import JobOutcome, JobRequest
from jobs.storage.store import Store
from orchestrator.events import Event, EventLog
from orchestrator.launcher import Launched, Launcher
from orchestrator.plan import PlannedJob, RunPlan, as_event, twins
from orchestrator.runs import LEASE_EVERY_S, write_lease
from orchestrator.scheduler import Node, Scheduler
from orchestrator.status import RunStatus, apply, fold
from orchestrator.workers import RayReporter

POLL_S = 0.1
FLUSH_S = 1.0
PROGRESS_S = 1.0
MAX_ATTEMPTS = 6
MAX_BACKOFF_S = 30.0
TRACKING_GRACE_S = 60.0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def supervisor_name(run: str) -> str:
    """Name of the actor that supervises a run."""
    return f"supervisor-{run}"


@dataclass(frozen=True)
class RunRequest:
    """What a supervisor is asked to do."""

    run: str
    plan: RunPlan
    cluster: Cluster


class Supervisor:
    """Drives a run. Its constructor starts the work, so a restart by Ray continues it.

    Args:
        request: the run.
    """

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._store = Store(request.plan.storage)
        self._jobs = {job.name: job for job in request.plan.jobs}
        self._twins = twins(request.plan)
        self._needs: dict[str, Needs] = {}
        self._lock = threading.Lock()
        self._log = EventLog(self._store.blobs, request.run)
        self._status = fold(request.run, self._log.events)
        self._launcher = Launcher(request.run, request.cluster)
        self._launched: dict[Any, Launched] = {}
        self._waiting: list[tuple[float, str]] = []
        self._attempts: dict[str, int] = {}
        self._progress_s: dict[str, float] = {}
        self._cancel = threading.Event()
        self._tracker: Any = None
        self._tracked = 0
        self._flushed_s = self._leased_s = 0.0
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    # What others call

    def report(self, job: str, event: str, details: Mapping[str, Any]) -> None:
        """Takes an event of a job; of its progress one a second is kept."""
        if event == "progress" and details["done"] < details["total"]:
            now = time.monotonic()
            if now - self._progress_s.get(job, 0.0) < PROGRESS_S:
                return
            self._progress_s[job] = now
        self._add(event, job, **details)

    def events_since(self, number: int) -> list[Event]:
        """Events from `number` on."""
        with self._lock:
            return self._log.events[number:]

    def is_over(self) -> bool:
        """Whether the run has ended and everything is written."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Asks for the run to stop; running jobs keep their checkpoints."""
        self._cancel.set()

    # The run

    def _drive(self) -> None:
        try:
            self._begin()
            while not self._scheduler.over and not self._cancel.is_set():
                self._launch_startable()
                self._collect()
                self._housekeep()
            self._end()
        except Exception as error:  # noqa: BLE001  (the user must hear of it)
            self._add("warning", message=f"supervisor: {type(error).__name__}: {error}")
            self._add("run_ended", state="failed")
        finally:
            self._launcher.close()
            self._finish_tracking(self._flush())

    def _begin(self) -> None:
        plan = self._request.plan
        write_lease(self._store.blobs, self._request.run)
        for job in plan.jobs:
            self._needs[job.name] = parse_job(job.kind, job.fields).needs(self._request.cluster)
        nodes = [Node(job.name, self._waits_for(job), self._needs[job.name]) for job in plan.jobs]
        self._scheduler = Scheduler(nodes, self._request.cluster)
        self._add("run_started", **as_event(plan))
        self._start_tracking()
        for job in plan.jobs:
            self._take_up(job)

    def _waits_for(self, job: PlannedJob) -> list[str]:
        """Its inputs, and the job that makes the same result, if there is one."""
        twin = self._twins.get(job.name)
        return [*job.inputs, *([twin] if twin else [])]

    def _take_up(self, job: PlannedJob) -> None:
        """Starts from what the store had, and what came of the job before a restart."""
        state = self._status.jobs[job.name].state
        if state in ("done", "reused"):
            self._scheduler.finish(job.name)
        elif job.action == "reuse":
            self._reuse(job.name)
        elif state == "failed":
            self._block_users(job.name)

    def _launch_startable(self) -> None:
        now = time.monotonic()
        for due, name in [item for item in self._waiting if item[0] <= now]:
            self._waiting.remove((due, name))
            self._scheduler.requeue(name)
        while (ready := self._scheduler.next_startable()) is not None:
            if ready in self._twins:
                self._reuse(ready)
            else:
                self._launch(ready)

    def _reuse(self, name: str) -> None:
        self._scheduler.finish(name)
        self._add("job_reused", name)

    def _launch(self, name: str) -> None:
        self._scheduler.start(name)
        self._attempts[name] = self._attempts.get(name, 0) + 1
        self._add("job_started", name, attempt=self._attempts[name])
        job = self._jobs[name]
        placement = parse_job(job.kind, job.fields).placed()
        launched = self._launcher.launch(self._job_request(job), placement, self._needs[name])
        self._launched[launched.future] = launched

    def _job_request(self, job: PlannedJob) -> JobRequest:
        return JobRequest(
            job.name,
            job.kind,
            job.fields,
            job.artifact,
            job.inputs,
            self._request.plan.storage,
            self._request.cluster,
            RayReporter(supervisor_name(self._request.run)),
            job.fingerprint,
        )

    def _collect(self) -> None:
        import ray

        if not self._launched:
            time.sleep(POLL_S)
            return
        finished, _ = ray.wait(list(self._launched), num_returns=1, timeout=POLL_S)
        for future in finished:
            launched = self._launched.pop(future)
            try:
                outcome: JobOutcome = ray.get(future)
            except ray.exceptions.RayError as error:
                self._launcher.release(launched, alive=False)
                self._retry(launched.job, f"its worker died: {_first_line(error)}")
            else:
                # What made a job fail, such as a broken GPU context, may live on in its process.
                self._launcher.release(launched, alive=outcome.failure is None)
                self._settle(launched.job, outcome)

    def _settle(self, name: str, outcome: JobOutcome) -> None:
        if outcome.failure is None:
            self._scheduler.finish(name)
            self._add("job_done", name, wall_s=outcome.wall_s, device_s=outcome.device_s)
        elif outcome.retry:
            self._retry(name, outcome.what)
        else:
            self._fail(name, outcome)

    def _retry(self, name: str, what: str) -> None:
        """Puts a job back in line after a pause that doubles; lost work is always retried."""
        attempt = self._attempts[name]
        if attempt >= MAX_ATTEMPTS:
            outcome = JobOutcome(self._jobs[name].artifact, "WorkLost", f"job '{name}'", what)
            self._fail(name, outcome)
            return
        pause = min(MAX_BACKOFF_S, 2.0 ** (attempt - 1))
        self._scheduler.pause(name)
        self._add("retry", name, what=what, attempt=attempt, pause_s=pause)
        self._waiting.append((time.monotonic() + pause, name))

    def _fail(self, name: str, outcome: JobOutcome) -> None:
        self._add(
            "job_failed",
            name,
            failure=outcome.failure,
            where=outcome.where,
            what=outcome.what,
            fix=outcome.fix,
            trace=outcome.trace,
        )
        self._block_users(name)

    def _block_users(self, name: str) -> None:
        for other in self._scheduler.fail(name):
            if self._status.jobs[other].state != "blocked":
                same = self._twins.get(other) == name
                why = "asks for the same result as" if same else "needs"
                self._add("job_blocked", other, what=f"{why} '{name}', which failed")

    def _end(self) -> None:
        if self._cancel.is_set():
            for name, job in self._status.jobs.items():
                if job.state in ("waiting", "running"):
                    self._add("job_cancelled", name)
            self._add("run_ended", state="cancelled")
            return
        failed = any(job.state in ("failed", "blocked") for job in self._status.jobs.values())
        self._add("run_ended", state="failed" if failed else "done")

    # Records

    def _add(self, event: str, job: str = "", /, **details: Any) -> None:
        with self._lock:
            apply(self._status, self._log.add(event, job, **details))

    def _housekeep(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(OSError):  # a storage that stumbles is written to a second later
            if now - self._flushed_s >= FLUSH_S:
                self._flushed_s = now
                self._launcher.retire()
                self._track(self._flush())
            if now - self._leased_s >= LEASE_EVERY_S:
                write_lease(self._store.blobs, self._request.run)
                self._leased_s = now

    def _flush(self) -> list[Event]:
        """Makes all events durable; returns those that the tracker has not had yet."""
        with self._lock:
            self._log.flush()
            fresh = self._log.events[self._tracked :]
            self._tracked = len(self._log.events)
        return fresh

    def _start_tracking(self) -> None:
        plan = self._request.plan
        if plan.tracking is None:
            return
        import ray

        from orchestrator.tracking import Tracker

        self._tracker = (
            ray.remote(Tracker)
            .options(num_cpus=0, max_restarts=3)
            .remote(self._request.run, plan.model_dump(mode="json"))
        )

    def _track(self, fresh: Sequence[Event]) -> None:
        """Hands new events, which are in the store, to the tracker without waiting for it."""
        if fresh and self._tracker is not None:
            self._tracker.push.remote([event.model_dump() for event in fresh])

    def _finish_tracking(self, fresh: Sequence[Event]) -> None:
        if self._tracker is None:
            return
        import ray

        self._track(fresh)
        try:
            problem = ray.get(self._tracker.finish.remote(), timeout=TRACKING_GRACE_S)
        except ray.exceptions.RayError as error:
            problem = f"{type(error).__name__}"
        if problem:
            self._add("warning", message=f"tracking is incomplete: {problem}")
            self._flush()

    def status(self) -> RunStatus:
        """The state of the run now."""
        with self._lock:
            return self._status.model_copy(deep=True)
