import os
import subprocess
import sys
import threading
import time

import pytest

from slimctl.jobs.storage import lease
from slimctl.jobs.storage.lease import Lock, process_is_gone
from slimctl.jobs.storage.sealed import seal


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "ASK_EVERY_S", 0.01)
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.02)


def never() -> bool:
    return False


def silent(holder: str) -> None:
    """Nobody listens."""


@pytest.fixture(params=["local", "remote", "s3"])
def blobs(request, store):
    return store.blobs if request.param == "local" else request.getfixturevalue(request.param)


def test_one_at_a_time(blobs):
    """Four makers, each adding one to a number in two steps."""
    number, inside, most = 0, 0, 0

    def make(owner: str) -> None:
        nonlocal number, inside, most
        with Lock(blobs, "flow-ab", owner).held(never, silent) as needed:
            assert needed
            inside += 1
            most = max(most, inside)
            before = number
            time.sleep(0.01)
            number = before + 1
            inside -= 1

    threads = [threading.Thread(target=make, args=(f"run/{at}",)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert (number, most) == (4, 1)
    assert blobs.names("locks") == []


def test_who_has_it_is_reported_once_and_what_is_made_is_not_made_again(blobs):
    said: list[str] = []
    made = threading.Event()
    with Lock(blobs, "flow-ab", "run-1/a").held(never, silent):
        second = Lock(blobs, "flow-ab", "run-2/a")
        ended: list[bool] = []

        def wait() -> None:
            with second.held(made.is_set, said.append) as needed:
                ended.append(needed)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        assert thread.is_alive()
        made.set()
        thread.join(60)
    assert (ended, said) == ([False], ["run-1/a"])


def test_other_work_is_not_waited_for(blobs):
    with (
        Lock(blobs, "flow-ab", "x").held(never, silent),
        Lock(blobs, "flow-abc", "y").held(never, silent) as needed,
    ):
        assert needed


def test_an_earlier_attempt_is_taken_over_and_learns_of_it(blobs):
    first = Lock(blobs, "flow-ab", "run-1/a")
    with (
        first.held(never, silent),
        Lock(blobs, "flow-ab", "run-1/a").held(never, silent) as needed,
    ):
        assert needed
        deadline = time.monotonic() + 60
        while not first.lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first.lost


def test_a_claim_that_was_renewed_while_it_was_removed_is_removed_again(blobs):
    """Else both would hold the lock to their ends."""
    first = Lock(blobs, "flow-ab", "run-1/a")
    with (
        first.held(never, silent),
        Lock(blobs, "flow-ab", "run-1/a").held(never, silent),
    ):
        first.renew()  # it had looked just before

        def settled() -> bool:
            return first.lost and not blobs.exists(first.name)

        deadline = time.monotonic() + 60
        while not settled() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert settled()


def test_a_claim_that_changes_while_it_is_read_is_alive(store, monkeypatch):
    """An object store then answers with an error; the claim is read again a little later."""
    said: list[str] = []
    plain, failures = store.blobs.read, [OSError("AWS Error INTERNAL_FAILURE")]

    def read(name):
        if failures:
            raise failures.pop()
        return plain(name)

    with Lock(store.blobs, "flow-ab", "run-1/a").held(never, silent):
        monkeypatch.setattr(store.blobs, "read", read)
        with Lock(store.blobs, "flow-ab", "run-2/a").held(lambda: True, said.append) as needed:
            assert not needed
    assert said == ["a maker whose claim cannot be read"]


def claim_of(pid: int, **changes: object) -> bytes:
    claim = {"owner": "run-0/a", "host": lease.host_name(), "pid": pid, "time": 0.0}
    return seal({**claim, **changes})


def test_a_dead_maker_is_not_waited_for(blobs):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    blobs.write("locks/flow-ab.0.json", claim_of(dead.pid))
    with Lock(blobs, "flow-ab", "run-1/a").held(never, silent) as needed:
        assert needed
        assert not blobs.exists("locks/flow-ab.0.json")


@pytest.mark.parametrize("claim", [claim_of(1, host="elsewhere"), b"", b"torn"])
def test_a_claim_that_is_not_renewed_runs_out(blobs, monkeypatch, claim):
    """Whatever the clocks of the two machines say."""
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 0.3)
    blobs.write("locks/flow-ab.0.json", claim)
    waited: list[str] = []
    with Lock(blobs, "flow-ab", "run-1/a").held(never, waited.append) as needed:
        assert needed
        assert len(waited) == 1, "until then it counts"


def test_whether_a_process_is_gone():
    here = lease.host_name()
    assert not process_is_gone(here, os.getpid())
    assert not process_is_gone("elsewhere", 2**22 - 1)
    assert process_is_gone(here, 2**22 - 1)
