import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_ray import Clock, FakeRay, Future, RayActorError, RayError

from jobs.base.artifacts import Dataset
from jobs.base.cluster import Cluster, Needs
from jobs.execution import JobOutcome, JobRequest
from jobs.storage.blobs import LocalBlobs
from jobs.storage.store import Store
from models.spec import ImageShape
from orchestrator import events, record, supervisor
from orchestrator.events import Event, read_events
from orchestrator.launcher import Launched
from orchestrator.plan import PlannedJob, RunPlan
from orchestrator.runs import ask_to_cancel, is_alive, read_status
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
        self.trackers: list[FakeTracker] = []
        self.tracking_problem: str | Exception = ""
        monkeypatch.setitem(sys.modules, "ray", FakeRay(self.clock, self.make))
        monkeypatch.setattr(supervisor, "time", self.clock)
        monkeypatch.setattr(record, "time", self.clock)
        monkeypatch.setattr(supervisor, "describe_cluster", lambda: self.cluster)
        monkeypatch.setattr(supervisor, "Launcher", lambda run, cluster: self)

    def make(self, cls: type, *arguments: Any) -> Any:
        assert cls.__name__ == "Tracker"
        self.trackers.append(FakeTracker(self.tracking_problem))
        return self.trackers[-1]

    def start(self, *jobs: PlannedJob, cpus: int = 8, tracking: str | None = None) -> Supervisor:
        plan = RunPlan(name="digits", storage=self.storage, tracking=tracking, jobs=jobs)
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
        return Launched(name, request.artifact_id, future, None, needs, shared=True)

    def release(self, launched: Launched, *, alive: bool) -> None:
        self.running.remove(launched.job)
        self.released.append((launched.job, alive))

    def retire(self) -> None:
        """Nothing is idle here."""

    def close(self, *, keep_own: bool = False) -> None:
        self.closed, self.kept_own = True, keep_own

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
    dead._record._flush()
    dead._end = lambda: None  # it dies without a word
    dead._record.end = lambda: None
    dead._scheduler = _Over()
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
    monkeypatch.setattr(record, "FLUSH_S", 0.0)
    monkeypatch.setattr(record, "LEASE_EVERY_S", 0.0)
    stumbles = iter([None, OSError("busy"), None, OSError("busy")])
    write_lease = record.write_lease

    def stumble(*arguments, **options):
        write_lease(*arguments, **options)
        if (error := next(stumbles, None)) is not None:
            raise error

    monkeypatch.setattr(record, "write_lease", stumble)
    world.script["a"] = [FLAKY]
    assert world.run(job("a"), job("b", "a")).state == "done"
    assert next(stumbles, "used up") == "used up"


def test_progress_once_a_second_is_kept_and_the_last(world):
    world.held = lambda name: True
    driven = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    with driven._record._lock:
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


def test_a_node_that_is_lost_is_not_counted_on(world):
    """After a loss the jobs are shared out over what the cluster has then."""
    world.script["a"] = [LOST]
    world.held = lambda name: False
    driven = world.start(job("a"), job("b"), job("c"), cpus=3)
    world.cluster = Cluster(cpus=1)
    driven._thread.join(10)
    assert driven.status().state == "done"
    assert driven._cluster == Cluster(cpus=1)


def test_losses_in_a_row_count_only_while_nothing_is_gained(world):
    """A run of days may lose its machine a hundred times, if it gets further each time."""
    world.script["a"] = [LOST] * 30
    done = iter(range(10, 1000, 10))

    def held(name: str) -> bool:
        world.driven.report("a", "progress", {"done": next(done), "total": 10, "metrics": {}})
        return False

    world.held = lambda name: True
    world.driven = world.start(job("a"))
    world.held = held
    world.driven._thread.join(20)
    assert world.driven.status().state == "done"
    assert len(world.launched) == 31


def test_work_of_a_dead_actor_that_is_finished_is_not_done_again(world):
    """Another run may have ended the actor after it had written the result."""
    world.script["a"] = [LOST]
    store = Store(world.storage)
    handle = Dataset(image=ImageShape(channels=1, size=8), count=1, flip_valid=False)
    manifest = {"kind": "x", "version": 1, "spec": {}, "inputs": {}, "wall_s": 1, "device_s": 1}
    store.commit("made-a", handle, store.stage(), manifest)
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "done", "b": "done"}
    assert world.launched == ["a", "b"]


def test_a_resumed_run_tries_again_what_failed_and_only_once(world):
    world.script["b"] = [WRONG]
    graph = [job("a"), job("b", "a"), job("c", "b")]
    assert world.run(*graph).state == "failed"
    world.launched.clear()
    world.resumption = "wish"
    left = [job("a", action="reuse"), *graph[1:]]
    status = world.run(*left)
    assert states(status) == {"a": "done", "b": "done", "c": "done"}
    assert world.launched == ["b", "c"]
    world.launched.clear()
    assert world.run(*left).state == "done"  # a restart by Ray
    assert world.launched == []
    assert len(world.told("run_resumed")) == 1


def test_a_cancel_that_is_left_in_the_storage_is_heard(world):
    world.held = lambda name: True
    driven = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    ask_to_cancel(Store(world.storage).blobs, RUN)
    driven._thread.join(10)
    assert read_status(Store(world.storage).blobs, RUN).state == "cancelled"
    assert world.closed
    assert not world.kept_own


def test_an_old_supervisor_is_fenced_off(world, monkeypatch):
    """What it says after another took over is not read, and it leaves running work alone."""
    monkeypatch.setattr(record, "LEASE_EVERY_S", 0.0)
    world.held = lambda name: True
    old = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    newer = events.EventLog(Store(world.storage).blobs, RUN)
    newer.take_over()
    newer.add("log", "a", message="from the new one")
    newer.flush()
    old.report("a", "log", {"message": "from the old one"})
    old._thread.join(10)
    assert old.is_over()
    assert world.kept_own
    said = [event.details["message"] for event in world.told("log")]
    assert said == ["from the new one"]
    assert world.told("run_ended") == []


def test_a_storage_that_is_full_at_the_end_is_waited_for(world, monkeypatch):
    write = LocalBlobs.write
    refusals = iter(range(5))

    def full(blobs, name, data):
        if b"run_ended" in data and next(refusals, None) is not None:
            raise OSError(28, "No space left on device")
        write(blobs, name, data)

    monkeypatch.setattr(LocalBlobs, "write", full)
    assert world.run(job("a")).state == "done"
    assert next(refusals, None) is None
