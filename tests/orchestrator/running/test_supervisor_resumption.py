"""A run that is taken up again: after a death, by a user, or by a second supervisor."""

from supervised import RUN, WRONG, job, states, wait_until

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running import journal
from slimctl.orchestrator.runs import events
from slimctl.orchestrator.runs.runs import read_status


def test_a_supervisor_that_comes_back_goes_on(world):
    """What is done or failed stays so and is reported once; what ran is started again."""
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
    dead._journal._flush()
    dead._end = lambda: None  # it dies without a word
    dead._journal.end = lambda: None
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
        assert len(world.said(name)) == count
    assert status.state == "failed"


class _Over:
    over = True

    def next_startable(self) -> None:
        return None


def test_a_resumed_run_tries_again_what_failed_and_only_once(world):
    world.script["b"] = [WRONG]
    graph = [job("a"), job("b", "a"), job("c", "b")]
    assert world.run(*graph).state == "failed"
    world.launched.clear()
    world.resumption = "request"
    left = [job("a", action="reuse"), *graph[1:]]
    status = world.run(*left)
    assert states(status) == {"a": "done", "b": "done", "c": "done"}
    assert world.launched == ["b", "c"]
    world.launched.clear()
    assert world.run(*left).state == "done"  # a restart by Ray
    assert world.launched == []
    assert len(world.said("run_resumed")) == 1


def test_an_old_supervisor_is_fenced_off(world, monkeypatch):
    """What it says after another took over is not read, and it leaves running work alone."""
    monkeypatch.setattr(journal, "RENEW_EVERY_S", 0.0)
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
    said = [event.details["message"] for event in world.said("log")]
    assert said == ["from the new one"]
    assert world.said("run_ended") == []
