"""A run as planned: order, shared results, cancelling, and what it tells."""

import pytest
from fake_ray import RayError
from growth import growth
from supervised import RUN, WRONG, job, states, wait_until

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.events import read_events
from slimctl.orchestrator.runs.runs import ask_to_cancel, read_status, run_lease


def test_a_graph_runs_in_order(world):
    status = world.run(job("a"), job("b", "a"), job("c", "a"), job("d", "bc"))
    assert status.state == "done"
    assert set(states(status).values()) == {"done"}
    assert world.launched == ["a", "b", "c", "d"]
    assert world.most_running == 2
    assert world.closed
    assert status.jobs["d"].device_s == 2.0
    assert [event.name for event in world.said("run_ended")] == ["run_ended"]


def test_jobs_run_beside_each_other_as_devices_allow(world):
    world.run(*(job(name) for name in "abcdef"), cpus=3)
    assert world.most_running == 3


def test_the_run_gives_signs_of_life_from_the_start(world):
    blobs = Store(world.storage).blobs
    seen = []

    def held(name: str) -> bool:
        seen.append(run_lease(blobs, RUN).is_alive())
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


def test_a_cancel_that_is_left_in_the_storage_is_heard(world):
    world.held = lambda name: True
    driven = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    ask_to_cancel(Store(world.storage).blobs, RUN)
    driven._thread.join(10)
    assert read_status(Store(world.storage).blobs, RUN).state == "cancelled"
    assert world.closed
    assert not world.kept_own


def test_progress_once_a_second_is_kept_and_the_last(world):
    world.held = lambda name: True
    driven = world.start(job("a"))
    wait_until(lambda: bool(world.running))
    with driven._journal._lock:
        world.clock.now = 5000.0
    for done in range(1, 11):
        driven.report("a", "progress", {"done": done, "total": 10, "metrics": {}})
    driven.report("a", "warning", {"message": "grey"})
    driven.cancel()
    driven._thread.join(10)
    kept = [event.details["done"] for event in world.said("progress")]
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


def test_thousands_of_jobs_take_time_in_proportion(world):
    def run(count: int) -> None:
        later = (
            job(f"{count}-{at}").model_copy(update={"inputs": {"0": "made-0"}})
            for at in range(count)
        )
        status = world.run(job("0"), *later)
        assert {status.jobs[f"{count}-{at}"].state for at in range(count)} == {"done"}

    assert growth(run, 300, 3000) < 3
