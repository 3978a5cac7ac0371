"""A supervisor whose jobs end as a test says, on a clock of its own: no Ray, no waiting."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from builders import RUN
from fake_ray import Clock, FakeRay, Future, RayActorError

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.execution import JobOutcome, JobRequest
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan
from slimctl.orchestrator.running import journal, supervisor
from slimctl.orchestrator.running.launcher import Launched
from slimctl.orchestrator.running.supervisor import RunRequest, Supervisor
from slimctl.orchestrator.runs.events import Event, read_events
from slimctl.orchestrator.runs.runs import read_status
from slimctl.orchestrator.runs.status import RunStatus

DONE = JobOutcome("a", wall_s=1.0, device_s=2.0)
WRONG = JobOutcome("a", "UserError", "job", "no such class", "use another")
BROKEN = JobOutcome("a", "ValueError", "job", "ValueError: 3", trace="Traceback ...")
FLAKY = JobOutcome("a", "OSError", "job", "OSError: stumbled", retry=True)
LOST = RayActorError("The actor died.\nmany more lines")


def job(name: str, inputs: str = "", *, artifact: str = "", action: str = "run") -> PlannedJob:
    return PlannedJob(
        name=name, kind="load_dataset", fields={"source": "digits"}, key=name,
        artifact=artifact or f"made-{name}", inputs={each: f"made-{each}" for each in inputs},
        fingerprint={}, action=action, reason="",
    )  # fmt: skip


class World:
    """Jobs end as `script` says, one word per attempt and DONE after that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
        self.storage = storage
        self.clock = Clock()
        self.cluster = Cluster(cpus=8)
        self.script: dict[str, list[JobOutcome | Exception]] = {}
        self.held: Callable[[str], bool] = lambda name: False
        self.launched: list[str] = []
        self.released: list[tuple[str, bool]] = []
        self.running: set[str] = set()
        self.most_running = 0
        self.closed = False
        self.kept_own = False
        self.resumption = ""
        self.operations: dict[str, Any] = {}
        """Budget, price and channels of the plan."""
        self.trackers: list[FakeTracker] = []
        self.tracking_problem: str | Exception = ""
        monkeypatch.setitem(sys.modules, "ray", FakeRay(self.clock, self.make))
        monkeypatch.setattr(supervisor, "time", self.clock)
        monkeypatch.setattr(journal, "time", self.clock)
        self.left_out: list[tuple[str, str]] = []
        monkeypatch.setattr(supervisor, "describe_cluster", lambda left_out: self.cluster)
        monkeypatch.setattr(supervisor, "LeftOut", lambda: self)
        monkeypatch.setattr(supervisor, "Launcher", lambda run, cluster: self)

    def make(self, cls: type, *arguments: Any) -> Any:
        assert cls.__name__ == "Tracker"
        self.trackers.append(FakeTracker(self.tracking_problem))
        return self.trackers[-1]

    def start(self, *jobs: PlannedJob, cpus: int = 8, tracking: str | None = None) -> Supervisor:
        plan = RunPlan(
            name="digits", storage=self.storage, tracking=tracking, jobs=jobs, **self.operations
        )
        self.cluster = Cluster(cpus=cpus)
        return Supervisor(RunRequest(RUN, plan, self.cluster, self.resumption))

    def run(self, *jobs: PlannedJob, **options: Any) -> RunStatus:
        """Runs jobs to the end; returns the status that the store holds."""
        driven = self.start(*jobs, **options)
        driven._thread.join(20)
        assert driven.is_over()
        stored = read_status(Store(self.storage).blobs, RUN)
        assert stored == driven.status()
        return stored

    def said(self, name: str) -> list[Event]:
        return [e for e in read_events(Store(self.storage).blobs, RUN) if e.name == name]

    # What a launcher does

    def launch(self, request: JobRequest, placement: str, needs: Needs) -> Launched:
        assert (placement, needs) == ("shared", Needs(1, 0))
        name = request.job
        self.launched.append(name)
        self.running.add(name)
        self.most_running = max(self.most_running, len(self.running))
        ends = self.script.get(name)
        future = Future(ends.pop(0) if ends else DONE, lambda: not self.held(name))
        return Launched(name, request.artifact_id, future, None, needs, shared=True)

    def release(self, launched: Launched, *, alive: bool) -> None:
        self.running.remove(launched.job)
        self.released.append((launched.job, alive))

    def stop(self, launched: Launched) -> None:
        self.release(launched, alive=False)

    def retire(self) -> None:
        """Nothing is idle here."""

    def close(self, *, keep_own: bool = False) -> None:
        self.closed, self.kept_own = True, self.kept_own or keep_own

    # What holds the GPUs that are left out

    def hold(self, node: str, device: str) -> str | None:
        self.left_out.append((node, device))
        return f"GPU-{node}-{device}"

    def per_node(self) -> dict[str, int]:
        return {node: 1 for node, _ in self.left_out}

    def resize(self, cluster: Cluster) -> None:
        """Nothing is placed here."""


class FakeTracker:
    def __init__(self, problem: str | Exception) -> None:
        self.numbers: list[int] = []
        self.problem = problem

    def push(self, pushed: list[dict[str, Any]]) -> None:
        self.numbers += [event["number"] for event in pushed]

    def finish(self) -> str:
        if isinstance(self.problem, Exception):
            raise self.problem
        return self.problem


def states(status: RunStatus) -> dict[str, str]:
    return {name: job.state for name, job in status.jobs.items()}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
