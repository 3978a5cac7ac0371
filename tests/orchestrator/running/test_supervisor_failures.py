"""What a supervisor does about lost work, mistakes of jobs, and a storage in trouble."""

import pytest
from builders import dataset, put
from fake_ray import RayActorError
from supervised import BROKEN, FLAKY, LOST, RUN, WRONG, job, states

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.failures import BUDGETS
from slimctl.jobs.execution import JobOutcome
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.storage.lease import Lease
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running import journal, losses
from slimctl.orchestrator.running.supervisor import Supervisor
from slimctl.orchestrator.runs import events

MAX_ATTEMPTS = BUDGETS["WorkLost"].failures


@pytest.mark.parametrize("trouble", [FLAKY, LOST], ids=["asks for it", "died"])
def test_lost_work_is_tried_again_after_a_pause_that_doubles(world, trouble):
    world.script["a"] = [trouble] * 4
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "done", "b": "done"}
    assert status.jobs["a"].attempt == 5
    assert [event.details["pause_s"] for event in world.said("retry")] == [1, 2, 4, 8]
    assert world.clock.now >= 1000 + 15


def test_a_retry_says_why_in_one_line(world):
    world.script["a"] = [LOST]
    world.run(job("a"))
    assert world.said("retry")[0].details["what"] == (
        "its worker died: RayActorError: The actor died. many more lines"
    )


def test_the_pause_has_an_end_and_so_have_the_attempts(world, monkeypatch):
    monkeypatch.setattr(losses, "MAX_BACKOFF_S", 4.0)
    world.script["a"] = [LOST] * 99
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "failed", "b": "blocked"}
    assert len(world.launched) == MAX_ATTEMPTS
    assert status.jobs["a"].failure == "WorkLost"
    assert max(event.details["pause_s"] for event in world.said("retry")) == 4.0


def test_other_jobs_run_while_one_waits_for_its_next_attempt(world):
    world.script["a"] = [LOST]
    world.run(job("a"), job("b"), job("c"), cpus=1)
    assert world.launched == ["a", "b", "c", "a"]


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


def test_a_node_that_is_lost_is_not_counted_on(world):
    """After a loss the jobs are shared out over what the cluster has then."""
    world.script["a"] = [LOST]
    world.held = lambda name: False
    driven = world.start(job("a"), job("b"), job("c"), cpus=3)
    world.cluster = Cluster(cpus=1)
    driven._thread.join(10)
    assert driven.status().state == "done"
    assert driven._cluster == Cluster(cpus=1)


def test_losses_with_a_node_are_not_counted(world):
    """A cluster that loses a node each time, far more often than a job may be lost."""
    world.script["a"] = [LOST] * 3 * MAX_ATTEMPTS
    often = iter(range(100, 1, -1))

    def held(name: str) -> bool:
        world.cluster = Cluster(cpus=next(often))
        return False

    world.held = lambda name: True
    driven = world.start(job("a"), cpus=100)
    world.held = held
    driven._thread.join(20)
    assert states(driven.status()) == {"a": "done"}
    assert len(world.launched) == 3 * MAX_ATTEMPTS + 1


def test_work_of_a_dead_actor_that_is_finished_is_not_done_again(world):
    """Another run may have ended the actor after it had written the result."""
    world.script["a"] = [LOST]
    put(Store(world.storage), "made-a", dataset())
    status = world.run(job("a"), job("b", "a"))
    assert states(status) == {"a": "done", "b": "done"}
    assert world.launched == ["a", "b"]


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
    assert world.said("job_failed")[0].details["trace"] == outcome.trace


def outcome(failure: str, what: str = "it stood still", **more: object) -> JobOutcome:
    return JobOutcome("a", failure, "job 'a'", what, "look", retry=True, **more)


def test_a_preemption_that_was_announced_counts_as_nothing(world):
    world.script["a"] = [outcome("Preempted")] * 50
    status = world.run(job("a"))
    assert states(status) == {"a": "done"}
    assert len(world.launched) == 51
    assert {event.details["pause_s"] for event in world.said("retry")} == {0.0}


@pytest.mark.parametrize("failure", ["CollectiveHung", "BadDevice"])
def test_what_comes_again_in_the_same_words_is_not_started_twice_more(world, failure):
    world.script["a"] = [outcome(failure, "at step 7")] * 9
    status = world.run(job("a"))
    assert (status.jobs["a"].failure, len(world.launched)) == (failure, 2)


def test_a_hang_elsewhere_each_time_has_three_attempts(world):
    world.script["a"] = [outcome("CollectiveHung", f"at step {n}") for n in range(9)]
    world.run(job("a"))
    assert len(world.launched) == BUDGETS["CollectiveHung"].failures == 3


def test_a_lack_of_memory_is_never_tried_again(world):
    monitor = RayActorError("Memory on the node was 7.61GB used / 8.00GB limit")
    world.script["a"] = [monitor]
    status = world.run(job("a"))
    assert world.launched == ["a"]
    assert (status.jobs["a"].failure, status.jobs["a"].state) == ("OutOfMemory", "failed")
    assert "smaller batch_size" in status.jobs["a"].fix


def test_a_gpu_that_fails_is_left_out_and_the_job_goes_on(world):
    world.script["a"] = [outcome("BadDevice", device=("n1", "3"))]
    status = world.run(job("a"))
    assert states(status) == {"a": "done"}
    assert world.left_out == [("n1", "3")]
    left_out = world.said("device_left_out")[0].details
    assert left_out == {"node": "n1", "device": "3", "uuid": "GPU-n1-3"}
    assert "GPU-n1-3 of node n1 failed" in world.said("warning")[0].details["message"]


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


def test_a_crash_of_the_supervisor_is_reported(world, monkeypatch):
    def crash(*arguments):
        raise ZeroDivisionError("of the supervisor")

    monkeypatch.setattr(Supervisor, "_collect", crash)
    status = world.run(job("a"))
    assert status.state == "failed"
    assert status.message == "supervisor: ZeroDivisionError: of the supervisor"
    assert world.closed


def test_a_storage_that_stumbles_does_not_end_the_run(world, monkeypatch):
    monkeypatch.setattr(journal, "FLUSH_S", 0.0)
    monkeypatch.setattr(journal, "RENEW_EVERY_S", 0.0)
    stumbles = iter([None, OSError("busy"), None, OSError("busy")])
    renew = Lease.renew

    def stumble(lease):
        renew(lease)
        if (error := next(stumbles, None)) is not None:
            raise error

    monkeypatch.setattr(Lease, "renew", stumble)
    world.script["a"] = [FLAKY]
    assert world.run(job("a"), job("b", "a")).state == "done"
    assert next(stumbles, "used up") == "used up"


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
