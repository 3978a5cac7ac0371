import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_ray import Clock, FakeRay, Future, RayActorError, RayError

from jobs.base.cluster import Cluster, Needs
from jobs.execution import JobOutcome, JobRequest
from jobs.storage.store import Store
from orchestrator import events, supervisor
from orchestrator.events import Event, read_events
from orchestrator.launcher import Launched
from orchestrator.plan import PlannedJob, RunPlan
from orchestrator.runs import is_alive, read_status
from orchestrator.status import RunStatus
from orchestrator.supervisor import MAX_ATTEMPTS, RunRequest, Supervisor

RUN = "digits-20260101-120000-aaaa"
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
        self.script: dict[str, list[JobOutcome | Exception]] = {}
        self.held: Callable[[str], bool] = lambda name: False
        self.launched: list[str] = []
        self.released: list[tuple[str, bool]] = []
        self.running: set[str] = set()
        self.most_running = 0
        self.closed = False
        self.trackers: list[FakeTracker] = []
        self.tracking_problem: str | Exception = ""
        monkeypatch.setitem(sys.modules, "ray", FakeRay(self.clock, self.make))
        monkeypatch.setattr(supervisor, "time", self.clock)
        monkeypatch.setattr(supervisor, "Launcher", lambda run, cluster: self)

    def make(self, cls: type, *arguments: Any) -> Any:
        assert cls.__name__ == "Tracker"
        self.trackers.append(FakeTracker(self.tracking_problem))
        return self.trackers[-1]

    def start(self, *jobs: PlannedJob, cpus: int = 8, tracking: str | None = None) -> Supervisor:
        plan = RunPlan(name="digits", storage=self.storage, tracking=tracking, jobs=jobs)
        return Supervisor(RunRequest(RUN, plan, Cluster(cpus=cpus)))

    def run(self, *jobs: PlannedJob, **options: Any) -> RunStatus:
        """Runs jobs to the end; returns the status that the store holds."""
        driven = self.start(*jobs, **options)
        driven._thread.join(20)
        assert driven.is_over()
        stored = read_status(Store(self.storage).blobs, RUN)
        assert stored == driven.status()
        return stored

    def told(self, name: str) -> list[Event]:
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
        return Launched(name, future, None, needs, shared=True)

    def release(self, launched: Launched, *, alive: bool) -> None:
        self.running.remove(launched.job)
        self.released.append((launched.job, alive))

    def retire(self) -> None:
        """Nothing is idle here."""

    def close(self) -> None:
        self.closed = True


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


@pytest.fixture
def world(monkeypatch, tmp_path) -> World:
    return World(monkeypatch, str(tmp_path))


def states(status: RunStatus) -> dict[str, str]:
    return {name: job.state for name, job in status.jobs.items()}


def test_a_graph_runs_in_order(world):
    status = world.run(job("a"), job("b", "a"), job("c", "a"), job("d", "bc"))
    assert status.state == "done"
    assert set(states(status).values()) == {"done"}
    assert world.launched == ["a", "b", "c", "d"]
    assert world.most_running == 2
    assert world.closed
    assert status.jobs["d"].device_s == 2.0
    assert [event.name for event in world.told("run_ended")] == ["run_ended"]


def test_jobs_run_beside_each_other_as_devices_allow(world):
    world.run(*(job(name) for name in "abcdef"), cpus=3)
    assert world.most_running == 3


def test_the_run_gives_signs_of_life_from_the_start(world):
    blobs = Store(world.storage).blobs
    seen = []

    def held(name: str) -> bool:
        seen.append(is_alive(blobs, RUN))
        return False

    world.held = held
    world.run(job("a"))
    assert all(seen)


def test_what_the_store_has_is_not_run(world):
    status = world.run(job("a", action="reuse"), job("b", "a", action="reuse"), job("c", "b"))
    assert states(status) == {"a": "reused", "b": "reused", "c": "done"}
    assert world.launched == ["c"]


def test_a_result_that_is_there_does_not_wait_for_its_lost_input(world):
    status = world.run(job("a"), job("b", "a", action="reuse"), job("c", "b"))
    assert states(status) == {"a": "done", "b": "reused", "c": "done"}
    assert sorted(world.launched) == ["a", "c"]


@pytest.mark.parametrize("trouble", [FLAKY, LOST], ids=["asks for it", "died"])
def test_lost_work_is_tried_again_after_a_pause_that_doubles(world, trouble):
    world.script["a"] = [trouble] * 4
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "done", "b": "done"}
    assert status.jobs["a"].attempt == 5
    assert [event.details["pause_s"] for event in world.told("retry")] == [1, 2, 4, 8]
    assert world.clock.now >= 1000 + 15


def test_a_retry_says_why_in_one_line(world):
    world.script["a"] = [LOST]
    world.run(job("a"))
    assert world.told("retry")[0].details["what"] == (
        "its worker died: RayActorError: The actor died."
    )


def test_the_pause_has_an_end_and_so_have_the_attempts(world, monkeypatch):
    monkeypatch.setattr(supervisor, "MAX_BACKOFF_S", 4.0)
    world.script["a"] = [LOST] * 99
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "failed", "b": "blocked"}
    assert len(world.launched) == MAX_ATTEMPTS
    assert status.jobs["a"].failure == "WorkLost"
    assert max(event.details["pause_s"] for event in world.told("retry")) == 4.0


def test_other_jobs_run_while_one_waits_for_its_next_attempt(world):
    world.script["a"] = [LOST]
    world.run(job("a"), job("b"), job("c"), cpus=1)
    assert world.launched == ["a", "b", "c", "a"]


@pytest.mark.parametrize("outcome", [WRONG, BROKEN], ids=["UserError", "ValueError"])
def test_a_mistake_is_never_tried_again(world, outcome):
    world.script["a"] = [outcome]
    status = world.run(job("a"))
    assert world.launched == ["a"]
    assert status.state == "failed"
    failed = status.jobs["a"]
    assert (failed.failure, failed.message, failed.fix) == (
        outcome.failure,
        outcome.what,
        outcome.fix,
    )
    assert world.told("job_failed")[0].details["trace"] == outcome.trace


def test_a_failure_blocks_what_needs_it_and_nothing_else(world):
    world.script["b"] = [WRONG]
    status = world.run(
        job("a"), job("b", "a"), job("c", "a"), job("d", "b"), job("e", "cd"), job("f", "c")
    )
    assert states(status) == {
        "a": "done", "b": "failed", "c": "done", "d": "blocked", "e": "blocked", "f": "done",
    }  # fmt: skip
    assert status.state == "failed"
    assert status.jobs["d"].message == "needs 'b', which failed"
    names = [
        (event.name, event.job) for event in events.read_events(Store(world.storage).blobs, RUN)
    ]
    assert names.index(("job_failed", "b")) < names.index(("job_blocked", "d"))


def test_a_process_in_which_a_job_failed_is_not_used_again(world):
    world.script |= {"a": [BROKEN], "b": [LOST]}
    world.run(job("a"), job("b"), job("c"))
    assert sorted(world.released) == [("a", False), ("b", False), ("b", True), ("c", True)]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_cancelled_run_ends_what_runs_and_what_waits(world):
    world.held = lambda name: name == "b"
    driven = world.start(job("a"), job("b", "a"), job("c", "b"))
    wait_until(lambda: "b" in world.running)
    assert not driven.is_over()
    assert states(driven.status()) == {"a": "done", "b": "running", "c": "waiting"}
    driven.cancel()
    driven._thread.join(10)
    assert driven.is_over()
    status = read_status(Store(world.storage).blobs, RUN)
    assert status.state == "cancelled"
    assert states(status) == {"a": "done", "b": "cancelled", "c": "cancelled"}
    assert world.closed, "running actors are ended"


def test_two_jobs_of_one_result_run_once(world):
    """`b` asks for what `a` makes: it waits and takes it."""
    status = world.run(
        job("a", artifact="x"), job("b", artifact="x"), job("c", "b"), job("d", "ab")
    )
    assert states(status) == {"a": "done", "b": "reused", "c": "done", "d": "done"}
    assert world.launched == ["a", "c", "d"]


def test_of_two_jobs_of_one_result_neither_runs_if_one_failed(world):
    world.script["a"] = [WRONG]
    status = world.run(job("a", artifact="x"), job("b", artifact="x"), job("c", "b"))
    assert states(status) == {"a": "failed", "b": "blocked", "c": "blocked"}
    assert status.jobs["b"].message == "asks for the same result as 'a', which failed"
    assert world.launched == ["a"]


def test_two_jobs_of_one_result_that_is_there(world):
    status = world.run(
        job("a", artifact="x", action="reuse"),
        job("b", artifact="x", action="reuse"),
        job("c", "b"),
    )
    assert states(status) == {"a": "reused", "b": "reused", "c": "done"}


def test_a_supervisor_that_comes_back_goes_on(world):
    """What is done or failed stays so and is told once; what ran is started again."""
    world.script["c"] = [WRONG]
    world.held = lambda name: name == "d"
    graph = [
        job("a", action="reuse"),
        job("b"),
        job("c"),
        job("d", "b"),
        job("e", "c"),
        job("f", "d"),
    ]
    dead = world.start(*graph)
    wait_until(
        lambda: set(states(dead.status()).values()) >= {"done", "failed", "blocked", "running"}
    )
    dead._flush()
    dead._scheduler = _Over()
    dead._end = lambda: None  # it dies without a word
    dead._thread.join(10)
    assert read_status(Store(world.storage).blobs, RUN).jobs["d"].state == "running"
    world.launched.clear()
    world.held = lambda name: False
    status = world.run(*graph)
    assert states(status) == {
        "a": "reused", "b": "done", "c": "failed", "d": "done", "e": "blocked", "f": "done",
    }  # fmt: skip
    assert world.launched == ["d", "f"]
    for name, count in (("job_reused", 1), ("job_failed", 1), ("job_blocked", 1), ("job_done", 3)):
        assert len(world.told(name)) == count
    assert status.state == "failed"


class _Over:
    over = True

    def next_startable(self) -> None:
        return None


def test_a_crash_of_the_supervisor_is_told(world, monkeypatch):
    def crash(*arguments):
        raise ZeroDivisionError("of the supervisor")

    monkeypatch.setattr(Supervisor, "_collect", crash)
    status = world.run(job("a"))
    assert status.state == "failed"
    assert status.message == "supervisor: ZeroDivisionError: of the supervisor"
    assert world.closed


def test_a_storage_that_stumbles_does_not_end_the_run(world, monkeypatch):
    monkeypatch.setattr(supervisor, "FLUSH_S", 0.0)
    monkeypatch.setattr(supervisor, "LEASE_EVERY_S", 0.0)
    stumbles = iter([None, OSError("busy"), None, OSError("busy")])
    write_lease = supervisor.write_lease

    def stumble(*arguments):
        write_lease(*arguments)
        if (error := next(stumbles, None)) is not None:
            raise error

    monkeypatch.setattr(supervisor, "write_lease", stumble)
    world.script["a"] = [FLAKY]
    assert world.run(job("a"), job("b", "a")).state == "done"
    assert next(stumbles, "used up") == "used up"


def test_progress_once_a_second_is_kept_and_the_last(world):
    world.held = lambda name: True
    driven = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    with driven._lock:
        world.clock.now = 5000.0
    for done in range(1, 11):
        driven.report("a", "progress", {"done": done, "total": 10, "metrics": {}})
    driven.report("a", "warning", {"message": "grey"})
    driven.cancel()
    driven._thread.join(10)
    kept = [event.details["done"] for event in world.told("progress")]
    assert kept[0] == 1
    assert kept[-1] == 10
    assert len(kept) < 10
    assert driven.status().jobs["a"].warnings == ["grey"]


def test_events_are_handed_on_from_any_point(world):
    driven = world.start(job("a"))
    driven._thread.join(10)
    everything = driven.events_since(0)
    assert [event.number for event in everything] == list(range(len(everything)))
    assert driven.events_since(2) == everything[2:]
    assert driven.events_since(99) == []


def test_the_tracker_gets_every_event_once(world):
    world.run(job("a"), job("b", "a"), tracking="sqlite:///x")
    (tracker,) = world.trackers
    stored = [event.number for event in read_events(Store(world.storage).blobs, RUN)]
    assert tracker.numbers == stored


@pytest.mark.parametrize("problem", ["MlflowException: no answer", RayError("gone")])
def test_a_tracker_in_trouble_is_a_warning(world, problem):
    world.tracking_problem = problem
    status = world.run(job("a"), tracking="http://127.0.0.1:9")
    assert status.state == "done"
    assert status.message.startswith("tracking is incomplete: ")


def test_thousands_of_jobs_take_little(world):
    jobs = [
        job("0"),
        *(job(f"j{at}").model_copy(update={"inputs": {"0": "made-0"}}) for at in range(3000)),
    ]
    started = time.process_time()
    status = world.run(*jobs)
    assert status.counts() == {"done": 3001}
    assert time.process_time() - started < 6.0
