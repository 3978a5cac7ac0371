"""Runs and jobs that stop at a checkpoint: at the end of a budget, at a timeout."""

import pytest
from builders import RUN
from supervised import DONE, World, job, states

from slimctl.jobs.base.drain import NOTICE
from slimctl.jobs.execution import JobOutcome
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.operations import Budget, Price
from slimctl.orchestrator.running.limits import GRACE_S
from slimctl.orchestrator.runs import events
from slimctl.orchestrator.runs.runs import ask_to_stop, forget_cancel

LEFT = JobOutcome("a", "Preempted", "job", "it was asked to leave", retry=True)
CHAIN = (job("a"), job("b", "a"), job("c", "b"))
GPU_PRICE = Price(gpu_hour=100.0, cpu_hour=3600.0)  # a CPU costs one a second


@pytest.fixture
def world(monkeypatch, tmp_path) -> World:
    made = World(monkeypatch, str(tmp_path / "store"))
    monkeypatch.setattr(events, "time", made.clock)
    return made


def leave_when_asked(world: World, name: str) -> None:
    """The job stays until it is asked to go, and then leaves as a training does."""
    work = Store(world.storage).work(f"made-{name}")
    world.held = lambda each: each == name and not work.exists(NOTICE)
    world.script[name] = [LEFT]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(cost=50.0), "its budget of 50.00 USD is spent"),
        (Budget(cpu_hours=0.01), "its budget of 0.01 CPU-hours is spent"),
        (Budget(time=40.0), "its budget of 40s is spent"),
    ],
)
def test_a_run_stops_at_a_checkpoint_when_its_budget_is_spent(world, budget, said):
    world.operations = {"budget": budget, "price": GPU_PRICE}
    leave_when_asked(world, "b")
    status = world.run(*CHAIN)
    assert states(status) == {"a": "done", "b": "stopped", "c": "stopped"}
    assert (status.state, status.message) == ("stopped", said)
    assert world.launched == ["a", "b"]
    assert 30 < world.clock.now - 1000 < 60  # it left by itself: nobody waited for the grace


def test_what_is_done_counts_and_a_run_within_its_budget_is_done(world):
    world.operations = {"budget": Budget(cost=50.0), "price": GPU_PRICE}
    assert world.run(*CHAIN).state == "done"


def test_a_resumed_run_has_what_is_left_of_its_budget(world):
    world.operations = {"budget": Budget(cpu_hours=0.01)}
    leave_when_asked(world, "b")
    first = world.run(*CHAIN)
    assert first.hours(world.clock.now)["CPU"] == pytest.approx(0.01, abs=0.001)
    world.resumption = "again"
    second = world.run(*CHAIN)
    assert second.state == "stopped"
    assert "c" not in world.launched


def test_a_run_that_is_asked_to_stop_goes_on_when_resumed(world):
    ask_to_stop(Store(world.storage).blobs, RUN)
    status = world.run(*CHAIN)
    assert (status.state, status.message) == ("stopped", "it was asked to stop at a checkpoint")
    assert world.launched == []
    forget_cancel(Store(world.storage).blobs, RUN)
    world.resumption = "again"
    assert world.run(*CHAIN).state == "done"


def test_a_job_stops_at_its_timeout_and_the_others_go_on(world):
    slow = job("b", "a")
    slow = slow.model_copy(update={"fields": {**slow.fields, "timeout": 20.0}})
    leave_when_asked(world, "b")
    status = world.run(job("a"), slow, job("c", "b"), job("d", "a"))
    assert states(status) == {
        "a": "done", "b": "stopped", "c": "stopped", "d": "done",
    }  # fmt: skip
    assert status.jobs["c"].message == "its timeout of 20s is over"
    assert status.state == "stopped"
    world.resumption = "again"
    world.script["b"] = [DONE]
    assert world.run(job("a"), slow, job("c", "b"), job("d", "a")).state == "done"


def test_a_job_that_does_not_leave_is_ended_after_a_grace(world):
    slow = job("b")
    slow = slow.model_copy(update={"fields": {**slow.fields, "timeout": 20.0}})
    world.held = lambda name: True
    status = world.run(slow)
    assert states(status) == {"b": "stopped"}
    assert world.clock.now - 1000 == pytest.approx(20 + GRACE_S, abs=5)
    assert world.released == [("b", False)]


def test_a_run_that_is_taken_away_stops_at_a_checkpoint_and_goes_on_when_resumed(world):
    leave_when_asked(world, "b")
    driven = world.start(*CHAIN)
    while "b" not in world.running:
        assert not driven.is_over()
    driven.take_away("SIGUSR1 came")
    driven._thread.join(20)
    status = driven.status()
    assert states(status) == {"a": "done", "b": "interrupted", "c": "waiting"}
    assert (status.state, status.message) == ("interrupted", "SIGUSR1 came: preempted")
    assert world.said("retry") == []  # nothing is held against it
    Store(world.storage).work("made-b").delete(NOTICE)
    world.resumption, world.held = "again", lambda name: False
    again = world.run(*CHAIN)
    assert states(again) == {"a": "done", "b": "done", "c": "done"}
    assert world.launched[-2:] == ["b", "c"]
