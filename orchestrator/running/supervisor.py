"""The actor that drives one run to its end.

It holds nothing that is not in the store: a restarted supervisor finds what is finished there,
finds running jobs by the name of their actors, and goes on.
"""

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.deaths import DeathWatch
from slimctl.jobs.base.drain import ask_to_leave
from slimctl.jobs.base.errors import WorkLost
from slimctl.jobs.base.registry import parse_job
from slimctl.jobs.execution import JobOutcome, JobRequest, failed
from slimctl.jobs.search.spec import SearchSpec
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.operations import Happening
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan, as_event, twins
from slimctl.orchestrator.results.collect import quality_reports
from slimctl.orchestrator.results.render import as_text, quality_table
from slimctl.orchestrator.running.cluster import describe_cluster
from slimctl.orchestrator.running.demand import Demand, runs_on_cpus, waiting_for
from slimctl.orchestrator.running.journal import Journal
from slimctl.orchestrator.running.launcher import NAMESPACE, Launched, Launcher, RayReporter
from slimctl.orchestrator.running.left_out import LeftOut
from slimctl.orchestrator.running.limits import GRACE_S, Limits
from slimctl.orchestrator.running.losses import Losses
from slimctl.orchestrator.running.notices import Stall, notice_text
from slimctl.orchestrator.running.notifier import Notifier
from slimctl.orchestrator.running.scheduler import Node, Scheduler
from slimctl.orchestrator.running.search import SearchRun
from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.status import FINAL, JobStatus, RunStatus

POLL_S = 0.1
PROGRESS_S = 1.0
CLUSTER_EVERY_S = 5.0
MIND_EVERY_S = 1.0
LINGER_S = 20.0
"""How long a supervisor whose run is over waits for somebody to ask how it ended."""
REACHED = frozenset({"done", "reused"})


def supervisor_name(run: str) -> str:
    """Name of the actor that supervises a run."""
    return f"supervisor-{run}"


def _resumes(event: Event) -> bool:
    return event.name == "run_resumed"


@dataclass(frozen=True)
class RunRequest:
    """What a supervisor is asked to do."""

    run: str
    plan: RunPlan
    cluster: Cluster
    resumption: str = ""
    """Names the request to try again what failed or was cancelled; a restart does not repeat it."""
    detached: bool = False
    """Whether it outlives the program that asked, and so must end by itself."""


class Supervisor:
    """Drives a run. Its constructor starts the work, so a restart by Ray continues it."""

    def __init__(self, request: RunRequest) -> None:
        self._request = request
        self._store = Store(request.plan.storage)
        self._jobs = {job.name: job for job in request.plan.jobs}
        self._twins = dict(twins(request.plan))
        self._makers = {job.artifact: name for name, job in reversed(self._jobs.items())}
        """Artifact -> the first job that makes it."""
        self._searches: dict[str, SearchRun] = {}
        """Searches whose trials are under way."""
        self._searched: set[str] = set()
        """Those whose trials have ended."""
        self._there = request.cluster
        self._cluster = request.cluster.expecting(request.plan.resources)
        """What jobs are laid out for: what is there, and the GPUs that are expected."""
        self._demand = Demand(request.run) if request.plan.resources else None
        self._waits_for_what = ""
        self._needs: dict[str, Needs] = {}
        self._journal = Journal(request.run, request.plan, comes_back=request.detached)
        self._launcher = Launcher(request.run, request.cluster)
        self._launched: dict[Any, Launched] = {}
        self._waiting: list[tuple[float, str]] = []
        self._attempts: dict[str, int] = {}
        self._deaths = DeathWatch()
        self._losses = Losses()
        self._left_out = LeftOut()
        self._progress_s: dict[str, float] = {}
        self._looked_s = self._minded_s = time.monotonic()
        self._leaving: dict[str, tuple[float, str]] = {}
        """Jobs that were asked to stop at a checkpoint: until when, and why."""
        self._stopping = ""
        self._taken_away = ""
        """Why this run has to leave the machine; "" if it has not."""
        notify = request.plan.notify
        self._stall = Stall(notify.stalled_after) if notify else None
        self._notifier = Notifier(notify, self._warn) if notify else None
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
        return self._journal.events_since(number)

    def status(self) -> RunStatus:
        """The state of the run now."""
        return self._journal.status()

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

    def take_away(self, why: str) -> None:
        """Has what runs stop at a checkpoint, and the run wait for its resumption."""
        self._taken_away = why

    # What searches call

    def known(self, job: str) -> JobStatus:
        """What is known of a job now."""
        return self._journal.job(job)

    def say(self, job: str, event: str, **details: Any) -> None:
        """Notes an event of a job."""
        self._add(event, job, **details)

    def adopt(self, search: str, jobs: Sequence[PlannedJob]) -> None:
        """Adds the jobs of a trial, each after its inputs."""
        jobs = [job for job in jobs if job.name not in self._jobs]
        if not jobs:
            return  # another trial of the same values has them
        dumps = {job.name: job.model_dump(mode="json") for job in jobs}
        self._add("jobs_added", search, jobs=dumps)
        for job in jobs:
            maker = self._makers.get(job.artifact, job.name)
            if maker != job.name and self.known(maker).state not in FINAL - REACHED:
                self._twins[job.name] = maker
            else:
                self._makers[job.artifact] = job.name
            self._jobs[job.name] = job
        self._needs |= self._needs_on(self._cluster, jobs)
        self._scheduler.add([self._node(job) for job in jobs])
        for job in jobs:
            self._take_up(job)

    def stop(self, job: str, why: str) -> None:
        """Ends a job, and those that need it, for good; what it has reached stays."""
        self._end_work_on(job)
        self._waiting = [item for item in self._waiting if item[1] != job]
        self._add("job_stopped", job, what=why)
        self._block_users(job)

    def _end_work_on(self, job: str) -> None:
        for future, launched in [*self._launched.items()]:
            if launched.job == job:
                del self._launched[future]
                self._launcher.stop(launched)

    # The run

    def _drive(self) -> None:
        try:
            self._begin()
            while not self._scheduler.over and not self._cancel.is_set():
                if self._journal.superseded:
                    self._launcher.close(keep_own=True)
                    self._leave()
                    return
                self._launch_startable()
                self._collect()
                self._search()
                self._housekeep()
                if (self._stopping or self._taken_away) and not self._launched:
                    break
            self._end()
        except Exception as error:  # noqa: BLE001  (the user must hear of it)
            self._add("warning", message=f"supervisor: {type(error).__name__}: {error}")
            self._add("run_ended", state="failed")
        self._launcher.close()
        self._left_out.close()
        if self._demand:
            self._demand.ask([])
        if self._notifier:
            self._notify("finished", results=self._results())
            self._notifier.close()
        self._journal.end()
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
        self._journal.begin()
        plan, request = self._request.plan, self._request.resumption
        self._needs = self._needs_on(self._cluster, plan.jobs)
        nodes = [self._node(job) for job in plan.jobs]
        self._scheduler = Scheduler(nodes, self._cluster, self._there)
        back = not request and self._journal.has_event("run_started")
        self._add("run_started", **as_event(plan))
        if request and not self._journal.has_event("run_resumed", request=request):
            again = [job.name for job in plan.jobs if job.action != "reuse"]
            kept = REACHED | {"stopped"}
            trials = ((name, job) for name, job in self.status().jobs.items() if job.search)
            again += [name for name, job in trials if job.state not in kept]
            self._add("run_resumed", request=request, jobs=again)
        resumed = (event.time for event in self._journal.events_since(0) if _resumes(event))
        self._limits = Limits(plan, max(resumed, default=self.status().started))
        if not back:
            self._notify("started")
        self._journal.keep()
        self._begun.set()
        self._journal.start_tracking()
        if self._request.detached and (message := runs_on_cpus(plan, self._there)):
            self._add("warning", message=message)
        for event in self._journal.events_since(0):
            if event.name == "device_left_out":  # before a restart
                self._left_out.hold(event.details["node"], event.details["device"])
        for job in plan.jobs:
            self._take_up(job)
        self._mind_limits()  # before anything starts that earlier attempts left nothing for

    def _node(self, job: PlannedJob) -> Node:
        return Node(job.name, self._waits_for(job), self._needs[job.name], job.flop)

    @staticmethod
    def _needs_on(cluster: Cluster, jobs: Iterable[PlannedJob]) -> dict[str, Needs]:
        """What each job needs; nothing where its result is there, perhaps of an older version."""
        return {
            job.name: Needs(cpus=0, gpus=0)
            if job.action == "reuse"
            else parse_job(job.kind, job.fields).needs(cluster)
            for job in jobs
        }

    def _waits_for(self, job: PlannedJob) -> list[str]:
        """Its inputs, and the job that makes the same result, if there is one."""
        twin = self._twins.get(job.name)
        return [*job.inputs, *([twin] if twin else [])]

    def _take_up(self, job: PlannedJob) -> None:
        """Starts from what the store had, and what came of the job before a restart."""
        known = self._journal.job(job.name)
        state, self._attempts[job.name] = known.state, known.attempt
        if state in REACHED:
            self._scheduler.finish(job.name)
        elif job.action == "reuse":
            self._reuse(job.name)
        elif state in ("failed", "stopped"):
            self._block_users(job.name)

    def _launch_startable(self) -> None:
        if self._stopping or self._taken_away:
            return
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
        job = self._jobs[name]
        spec = parse_job(job.kind, job.fields)
        if name not in self._searched:  # else it only goes on
            self._attempts[name] = self._attempts.get(name, 0) + 1
            searches = isinstance(spec, SearchSpec)
            held = Needs(cpus=0, gpus=0) if searches else self._needs[name]
            devices = {"cpus": held.cpus, "gpus": held.gpus}
            self._add("job_started", name, attempt=self._attempts[name], **devices)
            if searches:
                attempt = f"{self._request.run}/{self._request.resumption}"
                self._searches[name] = SearchRun(job, self._store, self._cluster, self, attempt)
                self._scheduler.pause(name)
                return
        request = self._job_request(job)
        launched = self._launcher.launch(request, spec.placed(self._cluster), self._needs[name])
        self._launched[launched.future] = launched

    def _search(self) -> None:
        """Goes on with the searches; one whose trials have ended is run like any other job."""
        if self._stopping:
            return
        for name, search in [*self._searches.items()]:
            try:
                over = search.advance(time.monotonic())
            except OSError:
                continue  # a storage that stumbles is asked again
            except Exception as error:  # noqa: BLE001  (the user must hear of it)
                outcome = failed(name, self._jobs[name].artifact, error)
                del self._searches[name]
                search.end()
                self._fail(name, outcome)
                continue
            if over:
                del self._searches[name]
                self._searched.add(name)
                self._scheduler.requeue(name)

    def _job_request(self, job: PlannedJob) -> JobRequest:
        made: dict[str, str] = {}
        if job.name in self._searched:
            trials = (one for one in self._jobs.values() if one.search == job.name)
            states = {one.artifact: (one.name, self.known(one.name).state) for one in trials}
            made = {name: one for one, (name, state) in states.items() if state in REACHED}
        return JobRequest(
            job.name,
            job.kind,
            job.fields,
            job.artifact,
            {**job.inputs, **made},
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
            what, fix, failure = self._deaths.explain(error)
            artifact, retry = self._jobs[name].artifact, issubclass(failure, WorkLost)
            where, kind = f"job '{name}'", failure.__name__
            self._settle(name, JobOutcome(artifact, kind, where, what, fix, retry=retry))

    def _settle(self, name: str, outcome: JobOutcome) -> None:
        _, why = self._leaving.pop(name, (0.0, ""))
        if why and outcome.failure is not None and outcome.retry:
            if self._taken_away:
                self._add("log", name, message=outcome.what)
            else:
                self.stop(name, why)
            return
        if outcome.failure is None:
            self._scheduler.finish(name)
            self._add("job_done", name, wall_s=outcome.wall_s, device_s=outcome.device_s)
            return
        if all(outcome.device):
            self._leave_out(*outcome.device)
        pause_s = self._losses.pause_s(name, outcome, self._journal.job(name).done)
        if pause_s is None:
            self._fail(name, outcome)
            return
        self._scheduler.pause(name)
        self._add(
            "retry",
            name,
            what=outcome.what,
            failure=outcome.failure,
            attempt=self._attempts[name],
            pause_s=pause_s,
        )
        self._waiting.append((time.monotonic() + pause_s, name))

    def _leave_out(self, node: str, device: str) -> None:
        """Does without a GPU from now on."""
        uuid = self._left_out.hold(node, device)
        if uuid is None:
            what = f"GPU {device} of node {node} failed, and could not be taken out of use"
            self._add("warning", message=what)
            return
        self._add("device_left_out", node=node, device=device, uuid=uuid)
        what = f"GPU {device} {uuid} of node {node} failed: the run does without it"
        self._add("warning", message=what)
        self._follow_cluster()

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
        if not self._jobs[name].search:
            self._notify("failed", f"job '{name}' failed: {outcome.what}")

    def _block_users(self, name: str) -> None:
        """Marks a job that failed or was stopped, and those that need it."""
        known = self.known(name)
        for other in self._scheduler.fail(name):
            if self.known(other).state in FINAL:
                continue
            if known.state == "stopped":
                self._add("job_stopped", other, what=known.message)
            else:
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
        if self._taken_away:
            self._add("run_ended", state="interrupted", what=f"{self._taken_away}: preempted")
            return
        if self._stopping:
            for name, job in jobs.items():
                if job.state in ("waiting", "running"):
                    self._add("job_stopped", name, what=self._stopping)
            self._add("run_ended", state="stopped", what=self._stopping)
            return
        own = [one for one in jobs.values() if not one.search]
        if any(one.state in ("failed", "blocked") for one in own):
            self._add("run_ended", state="failed")
        elif stopped := [one.message for one in own if one.state == "stopped"]:
            self._add("run_ended", state="stopped", what=stopped[0])
        else:
            self._add("run_ended", state="done")

    # Limits and notices

    def _mind_limits(self) -> None:
        """Stops at a checkpoint what has had its time, and everything where the budget is spent."""
        timeouts = {
            name: float(job.fields["timeout"])
            for name, job in self._jobs.items()
            if job.fields.get("timeout")
        }
        if self._taken_away:
            for launched in [*self._launched.values()]:
                self._ask_to_stop(launched.job, self._taken_away)
        limited = timeouts or self._request.plan.budget
        if not (limited or self._leaving or self._stall or self._journal.stops):
            return
        status, now = self.status(), time.time()
        for name, why in self._limits.overdue(timeouts, status, now).items():
            self._ask_to_stop(name, why)
        asked = "it was asked to stop at a checkpoint" if self._journal.stops else ""
        if not self._stopping and (why := asked or self._limits.spent(status, now)):
            self._stopping = why
            self._warn(f"{why}: the run stops at checkpoints")
        if self._stopping:
            for launched in [*self._launched.values()]:
                self._ask_to_stop(launched.job, self._stopping)
        for name, (until, why) in [*self._leaving.items()]:
            if time.monotonic() >= until:
                del self._leaving[name]
                if self._taken_away:
                    self._end_work_on(name)
                else:
                    self.stop(name, why)
        if self._stall and (what := self._stall.begins(status, now)):
            self._notify("stalled", what)

    def _ask_to_stop(self, name: str, why: str) -> None:
        """Asks a job to stop as if its node were taken away, or ends it where it holds nothing."""
        if name in self._leaving:
            return
        if name in self._searches:
            self._searches.pop(name).end()
        if all(launched.job != name for launched in self._launched.values()):
            self.stop(name, why)
            return
        with contextlib.suppress(OSError):  # then it keeps its last checkpoint
            ask_to_leave(self._store.work(self._jobs[name].artifact), why)
        self._leaving[name] = (time.monotonic() + GRACE_S, why)
        self._add("log", name, message=f"{why}: it is asked to stop at a checkpoint")

    def _notify(self, happening: Happening, what: str = "", results: str = "") -> None:
        if self._notifier:
            status, price = self.status(), self._request.plan.price
            text = notice_text(
                happening, status, time.time(), what=what, price=price, results=results
            )
            self._notifier.say(happening, self._request.run, text)

    def _results(self) -> str:
        """The table of what the run measured; "" where nothing is, or the storage is away."""
        with contextlib.suppress(OSError):
            reports = quality_reports(self._store, self.status())
            return as_text(*quality_table(reports)) if reports else ""
        return ""

    def _warn(self, message: str) -> None:
        self._add("warning", message=message)

    def _add(self, event: str, job: str = "", /, **details: Any) -> None:
        self._journal.add(event, job, **details)

    def _housekeep(self) -> None:
        now = time.monotonic()
        self._launcher.retire()
        if self._demand:
            self._await_gpus(self._demand)
        if self._journal.keep():
            self._cancel.set()
        if now - self._minded_s >= MIND_EVERY_S:
            self._minded_s = now
            self._mind_limits()
        if now - self._looked_s >= CLUSTER_EVERY_S:
            self._looked_s = now
            self._follow_cluster()

    def _await_gpus(self, demand: Demand) -> None:
        """Asks the cluster for the GPUs that ready jobs wait for, and reports that they wait."""
        parts = self._scheduler.awaited_gpus()
        demand.ask(parts)
        waits = waiting_for(sum(parts), self._there) if parts else ""
        if waits != self._waits_for_what:
            self._waits_for_what = waits
            self._add("waiting", message=waits)

    def _follow_cluster(self) -> None:
        """Shares out what the cluster has now: nodes come and go.

        Work that went with a node is not held against its job, whenever the loss is noticed.
        """
        there, before = describe_cluster(self._left_out.per_node()), self._there
        if there != before and there.cpus + there.gpus > 0:
            if there.cpus < before.cpus or there.gpus < before.gpus:
                self._losses.forgive()
            self._there = there
            self._cluster = cluster = there.expecting(self._request.plan.resources)
            self._needs = self._needs_on(cluster, self._jobs.values())
            self._scheduler.resize(cluster, self._needs, there)
            self._launcher.resize(there)
            for search in self._searches.values():
                search.resize(cluster)
