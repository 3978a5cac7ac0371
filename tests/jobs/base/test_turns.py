"""Units of work and measurements of one node, in threads: each has its own opening of the files."""

import itertools
import subprocess
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

import pytest

from slimctl.jobs.base import turns
from slimctl.jobs.base.turns import alone, computing, in_turns, measure_alone
from slimctl.models.metrics.cost import Latency


@pytest.fixture(autouse=True)
def _own_node(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(turns, "_files", turns._Files())


class Worker(threading.Thread):
    """Does unit after unit, so that one of two is always at work."""

    def __init__(self, unit_s=0.02):
        super().__init__(daemon=True)
        self.unit_s = unit_s
        self.busy = False
        self.units = 0
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            with computing(), computing():
                self.busy = True
                time.sleep(self.unit_s)
                self.units += 1
                self.busy = False


@pytest.fixture
def workers():
    """Starts workers; they end with the test."""
    started = []

    def start(*units_s):
        started.extend(Worker(unit_s) for unit_s in units_s)
        for worker in started:
            worker.start()
        while not all(worker.units for worker in started):
            time.sleep(0.001)
        return started

    yield start
    for worker in started:
        worker.over.set()
        worker.join(10)


def test_a_measurement_pauses_work_that_never_leaves_a_gap(workers):
    both = workers(0.02, 0.03)
    for _ in range(3):
        with alone() as has:
            assert has
            before = [worker.units for worker in both]
            for _ in range(20):
                assert not any(worker.busy for worker in both)
                time.sleep(0.005)
            assert [worker.units for worker in both] == before
    while [worker.units for worker in both] == before:
        time.sleep(0.001)


def test_two_measurements_take_turns():
    inside = []

    def measure():
        with alone() as has:
            inside.append(has)
            time.sleep(0.05)
            inside.append(has)

    threads = [threading.Thread(target=measure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [True] * 6


def test_a_turn_that_does_not_come_is_reported_and_work_goes_on():
    with_turn, release = threading.Event(), threading.Event()

    def hold():
        with computing():
            with_turn.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    with_turn.wait()
    with alone(0.1) as has:
        assert not has
    assert not measure_alone(lambda: None, "cpu", 0.1).quiet
    with computing():
        release.set()
    thread.join()


def test_workers_that_wait_for_each_other_across_the_turnstile_do_not_hang(monkeypatch):
    """As in an exchange of gradients: one has begun its step, the other comes too late."""
    monkeypatch.setattr(turns, "PATIENCE_S", 0.1)
    met, begun, closed = threading.Barrier(2), threading.Event(), threading.Event()

    def first():
        with computing():
            begun.set()
            met.wait(20)

    def second():
        closed.wait()
        time.sleep(0.05)
        with computing():
            met.wait(20)

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    begun.wait()
    closed.set()
    with alone(20) as has:
        assert has
    for thread in threads:
        thread.join(1)
    assert not met.broken


def test_a_dead_process_holds_nothing(tmp_path):
    code = (
        "import os, signal\nfrom slimctl.jobs.base.turns import alone\nwith alone() as has:\n"
        "    assert has\n    print('in', flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout == "in\n", done.stderr
    with alone(0.0001) as has:
        assert has


def test_work_goes_on_beside_a_measurement_that_never_ends(monkeypatch):
    monkeypatch.setattr(turns, "WORK_WAITS_S", 0.05)
    done = []

    def work():
        done.extend(in_turns(range(50)))

    with alone() as has:
        assert has
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)
        assert done == list(range(50))


def test_without_the_files_there_are_no_turns(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert list(in_turns(iter([1, 2]))) == [1, 2]
    with alone() as has:
        assert not has


@pytest.mark.parametrize(
    ("found", "tries", "quiet", "median"),
    [
        ([(2.0, 2.1)], 1, True, 2.0),
        ([(3.0, 9.0), (2.0, 2.2)], 2, True, 2.0),
        ([(3.0, 9.0), (4.0, 9.0), (3.5, 9.0), (5.0, 9.0)], 4, False, 3.0),
    ],
)
def test_a_spread_that_is_too_wide_is_measured_again(monkeypatch, found, tries, quiet, median):
    first = Latency(median_ms=1, p90_ms=1, device="cpu", threads=1)
    given = itertools.chain([first], (
        Latency(median_ms=middle, p90_ms=high, device="cpu", threads=1) for middle, high in found
    ))  # fmt: skip
    calls = []

    def measure(*arguments, **options):
        calls.append(options)
        return next(given)

    monkeypatch.setattr(turns, "measure_latency", measure)
    clock = SimpleNamespace(monotonic=lambda: 0.7 * len(calls), sleep=time.sleep)
    monkeypatch.setattr(turns, "TRYING_S", 2.0)
    monkeypatch.setattr(turns, "time", clock)  # each takes 0.7 s of those two
    measured = measure_alone(lambda: None, "cpu")
    assert len(calls) == 1 + tries
    assert (measured.quiet, measured.latency.median_ms) == (quiet, median)
