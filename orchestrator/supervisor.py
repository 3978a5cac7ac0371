"""The actor that drives one run to its end.

It holds nothing that is not in the store: a restarted supervisor finds what is finished there,
finds running jobs by the name of their actors, and goes on.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.deaths import DeathWatch
from slimctl.jobs.base.registry import parse_job
from slimctl.jobs.execution import JobOutcome, JobRequest
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.cluster import describe_cluster
from slimctl.orchestrator.events import Event
from slimctl.orchestrator.launcher import NAMESPACE, Launched, Launcher, RayReporter
from slimctl.orchestrator.plan import PlannedJob, RunPlan, as_event, twins
from slimctl.orchestrator.runs import RunRecord
from slimctl.orchestrator.scheduler import Node, Scheduler
from slimctl.orchestrator.status import RunStatus

POLL_S = 0.1
PROGRESS_S = 1.0
CLUSTER_EVERY_S = 5.0
LINGER_S = 20.0
"""How long a supervisor whose run is over waits for somebody to ask how it ended."""
MAX_ATTEMPTS = 6
MAX_BACKOFF_S = 30.0


def supervisor_name(run: str) -> str:
    """Name of the actor that supervises a run."""
    return f"supervisor-{run}"


@dataclass(frozen=True)
class RunRequest:
    """What a supervisor is asked to do."""

    run: str
    plan: RunPlan
    cluster: Cluster
    resumption: str = ""
    """Names the wish to try again what failed or was cancelled; a restart does not repeat it."""
    detached: bool = False
    """Whether it outlives the program that asked, and so must end by itself."""


class Supervisor:
    """Drives a run. Its constructor starts the work, so a restart by Ray continues it."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._store = Store(request.plan.storage)
        self._jobs = {job.name: job for job in request.plan.jobs}
        self._twins = twins(request.plan)
        self._cluster = request.cluster
        self._needs: dict[str, Needs] = {}
        self._record = RunRecord(request.run, request.plan, comes_back=request.detached)
        self._launcher = Launcher(request.run, request.cluster)
        self._launched: dict[Any, Launched] = {}
        self._waiting: list[tuple[float, str]] = []
        self._attempts: dict[str, int] = {}
        self._deaths = DeathWatch()
        self._losses: dict[str, tuple[int, int]] = {}
        """How often in a row a job was lost, and how far it was then."""
        self._progress_s: dict[str, float] = {}
        self._looked_s = time.monotonic()
        self._cancel = threading.Event()
        self._begun = threading.Event()
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
        return self._record.events_since(number)

    def status(self) -> RunStatus:
        """The state of the run now."""
        return self._record.status()

    def accepted(self) -> bool:
        """Answers once the run is on record, so that it survives whatever dies next."""
        while not self._begun.wait(POLL_S):
            if self.is_over():
                return False
        return True

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
                if self._record.superseded:
                    self._launcher.close(keep_own=True)
                    self._leave()
                    return
                self._launch_startable()
                self._collect()
                self._housekeep()
            self._end()
        except Exception as error:  # noqa: BLE001  (the user must hear of it)
            self._add("warning", message=f"supervisor: {type(error).__name__}: {error}")
            self._add("run_ended", state="failed")
        self._launcher.close()
        self._record.end()
        if self._request.detached:
            timer = threading.Timer(LINGER_S, self._leave)
            timer.daemon = True
            timer.start()

    def _leave(self) -> None:
        """Ends this actor for good: nobody needs it any more."""
        if self._request.detached:
            import ray

            ray.kill(ray.get_actor(supervisor_name(self._request.run), namespace=NAMESPACE))

    def _begin(self) -> None:
        self._record.begin()
        plan, wish = self._request.plan, self._request.resumption
        self._needs = self._needs_on(self._cluster)
        nodes = [
            Node(job.name, self._waits_for(job), self._needs[job.name], job.flop)
            for job in plan.jobs
        ]
        self._scheduler = Scheduler(nodes, self._cluster)
        self._add("run_started", **as_event(plan))
        if wish and not self._record.has_event("run_resumed", wish=wish):
            again = [job.name for job in plan.jobs if job.action != "reuse"]
            self._add("run_resumed", wish=wish, jobs=again)
        self._record.keep()
        self._begun.set()
        self._record.start_tracking()
        for job in plan.jobs:
            self._take_up(job)

    def _needs_on(self, cluster: Cluster) -> dict[str, Needs]:
        jobs = self._request.plan.jobs
        return {job.name: parse_job(job.kind, job.fields).needs(cluster) for job in jobs}

    def _waits_for(self, job: PlannedJob) -> list[str]:
        """Its inputs, and the job that makes the same result, if there is one."""
        twin = self._twins.get(job.name)
        return [*job.inputs, *([twin] if twin else [])]

    def _take_up(self, job: PlannedJob) -> None:
        """Starts from what the store had, and what came of the job before a restart."""
        known = self._record.job(job.name)
        state, self._attempts[job.name] = known.state, known.attempt
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
            self._follow_cluster()  # what was lost may have been a node
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
        placement = parse_job(job.kind, job.fields).placed(self._cluster)
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
            self._cluster,
            RayReporter(supervisor_name(self._request.run)),
            job.fingerprint,
            self._request.run,
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
                self._lost(launched.job, error)
            else:
                # What made a job fail, such as a broken GPU context, may live on in its process.
                self._launcher.release(launched, alive=outcome.failure is None)
                self._settle(launched.job, outcome)

    def _lost(self, name: str, error: Exception) -> None:
        """The actor of a job died: perhaps with its result written, ended by another run."""
        try:
            made = self._store.state(self._jobs[name].artifact) == "done"
        except OSError:
            made = False
        if made:
            self._scheduler.finish(name)
            self._add("job_done", name, wall_s=0.0, device_s=0.0)
        else:
            self._retry(name, *self._deaths.explain(error))

    def _settle(self, name: str, outcome: JobOutcome) -> None:
        if outcome.failure is None:
            self._scheduler.finish(name)
            self._add("job_done", name, wall_s=outcome.wall_s, device_s=outcome.device_s)
        elif outcome.retry:
            self._retry(name, outcome.what, outcome.fix)
        else:
            self._fail(name, outcome)

    def _retry(self, name: str, what: str, fix: str = "") -> None:
        """Puts a job back in line after a pause that doubles while it does not get any further."""
        done = self._record.job(name).done
        losses, before = self._losses.get(name, (0, 0))
        losses = losses + 1 if done <= before else 1
        self._losses[name] = losses, done
        if losses >= MAX_ATTEMPTS:
            artifact = self._jobs[name].artifact
            outcome = JobOutcome(artifact, "WorkLost", f"job '{name}'", what, fix)
            self._fail(name, outcome)
            return
        pause = min(MAX_BACKOFF_S, 2.0 ** (losses - 1))
        self._scheduler.pause(name)
        self._add("retry", name, what=what, attempt=self._attempts[name], pause_s=pause)
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
            if self._record.job(other).state != "blocked":
                same = self._twins.get(other) == name
                why = "asks for the same result as" if same else "needs"
                self._add("job_blocked", other, what=f"{why} '{name}', which failed")

    def _end(self) -> None:
        jobs = self.status().jobs
        if self._cancel.is_set():
            for name, job in jobs.items():
                if job.state in ("waiting", "running"):
                    self._add("job_cancelled", name)
            self._add("run_ended", state="cancelled")
            return
        failed = any(job.state in ("failed", "blocked") for job in jobs.values())
        self._add("run_ended", state="failed" if failed else "done")

    def _add(self, event: str, job: str = "", /, **details: Any) -> None:
        self._record.add(event, job, **details)

    def _housekeep(self) -> None:
        now = time.monotonic()
        self._launcher.retire()
        if self._record.keep():
            self._cancel.set()
        if now - self._looked_s >= CLUSTER_EVERY_S:
            self._looked_s = now
            self._follow_cluster()

    def _follow_cluster(self) -> None:
        """Shares out what the cluster has now: nodes come and go.

        Work that went with a node is not held against its job, whenever the loss is noticed.
        """
        cluster = describe_cluster()
        if cluster != self._cluster and cluster.cpus + cluster.gpus > 0:
            if cluster.cpus < self._cluster.cpus or cluster.gpus < self._cluster.gpus:
                losses = self._losses.items()
                self._losses = {name: (max(0, often - 1), at) for name, (often, at) in losses}
            self._cluster = cluster
            self._needs = self._needs_on(cluster)
            self._scheduler.resize(cluster, self._needs)
            self._launcher.resize(cluster)
