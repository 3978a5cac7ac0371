"""Turns at a node's cores and GPUs: a latency is measured while no other work of ours is there.

Work holds a file of the node together with all other work, for one unit at a time (an optimizer
step, a batch); a measurement holds it alone. Locks of the kernel: they cost microseconds and end
with their process. A second file is a turnstile before the first, which a measurement closes, so
that units that overlap cannot keep it out for ever. Nothing waits without end: a measurement that
gets no turn is marked, and work goes on beside one that never comes to its end. Where no such file
can be made there are no turns.
"""

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from slimctl.models.metrics.cost import Latency, measure_latency

T = TypeVar("T")
WORK_WAITS_S = 120.0
MEASUREMENT_WAITS_S = 60.0
PATIENCE_S = 2.0
"""How long the turnstile stays closed at first: two workers that exchange gradients may be one
before and one behind it, and only open it lets both through. Doubled each time, for long units."""
LOOK_S = 0.005
TRYING_S = 2.0
"""For how long a loud measurement is tried again; work of ours stands still meanwhile."""
SPREAD = 1.25
"""p90 over median from which somebody else is taken to have been there."""
BUDGET_MS = 150.0
"""Of one try, where nothing else is asked for."""


class _Files(threading.local):
    """The two files, opened for each thread: locks belong to an opening."""

    def __init__(self) -> None:
        self.pid = 0
        self.depth = 0
        self.opened: tuple[int, int] | None = None

    def get(self) -> tuple[int, int] | None:
        """The turnstile and the node; None where they cannot be opened."""
        if self.pid != os.getpid():  # a fork has its parent's openings
            self.pid, self.depth, self.opened = os.getpid(), 0, _open()
        return self.opened


def _open() -> tuple[int, int] | None:
    folder = Path(tempfile.gettempdir()) / f"slimctl-turns-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(folder / "turnstile", flags, 0o600), os.open(folder / "node", flags, 0o600)
    except OSError:
        return None


_files = _Files()


def _lock(file: int, how: int, wait_s: float) -> bool:
    """Takes a lock; False if it was not to be had in time."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except OSError:  # held, or a file system without locks
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_S)
        else:
            return True


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Around a unit of work; units inside it are part of it."""
    files = _files.get()
    if files is None or _files.depth:
        yield
        return
    turnstile, node = files
    if not _lock(turnstile, fcntl.LOCK_SH, WORK_WAITS_S):
        _files.opened = None  # somebody does not give it back: no more turns for this thread
        yield
        return
    _lock(node, fcntl.LOCK_SH, WORK_WAITS_S)  # free: who holds it alone has the turnstile, too
    fcntl.flock(turnstile, fcntl.LOCK_UN)
    _files.depth = 1
    try:
        yield
    finally:
        _files.depth = 0
        fcntl.flock(node, fcntl.LOCK_UN)


def in_turns(units: Iterable[T]) -> Iterator[T]:
    """Each of the values, made as a unit of work."""
    iterator, end = iter(units), object()
    while True:
        with computing():
            value = next(iterator, end)
        if value is end:
            return
        yield value  # type: ignore[misc]


@contextlib.contextmanager
def alone(wait_s: float = MEASUREMENT_WAITS_S) -> Iterator[bool]:
    """The node without other work of ours; gives whether it could be had in `wait_s`."""
    files = _files.get()
    if files is None or _files.depth:
        yield False
        return
    turnstile, node = files
    has = _take(turnstile, node, wait_s)
    _files.depth = 1
    try:
        yield has
    finally:
        _files.depth = 0
        fcntl.flock(node, fcntl.LOCK_UN)
        fcntl.flock(turnstile, fcntl.LOCK_UN)


def _take(turnstile: int, node: int, wait_s: float) -> bool:
    deadline, patience = time.monotonic() + wait_s, PATIENCE_S
    while (left := deadline - time.monotonic()) > 0:
        if not _lock(turnstile, fcntl.LOCK_EX, left):
            return False
        if _lock(node, fcntl.LOCK_EX, min(patience, left)):
            return True
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        patience *= 2
        time.sleep(10 * LOOK_S)
    return False


@dataclass(frozen=True)
class Measured:
    """A latency, and whether it was quiet."""

    latency: Latency
    quiet: bool
    """Whether nothing else of ours computed on the node, nor, by the spread, anybody else."""


def measure_alone(
    call: Callable[[], object],
    device: torch.device | str,
    wait_s: float = MEASUREMENT_WAITS_S,
    budget_ms: float = BUDGET_MS,
) -> Measured:
    """Times a call alone on its node, again while its spread says that somebody else was there.

    `budget_ms` is for the calls of one try, which are 7 to 100; `wait_s` for the turn.
    """
    with alone(wait_s) as has:
        first = measure_latency(call, device, warmup=2, repeats=1).median_ms
        repeats = round(min(100, max(7, budget_ms / max(first, 1e-3))))
        best = measure_latency(call, device, repeats=repeats)
        until = time.monotonic() + TRYING_S
        while best.p90_ms > SPREAD * best.median_ms and time.monotonic() < until:
            again = measure_latency(call, device, repeats=repeats)
            best = min(best, again, key=lambda found: found.median_ms)
    return Measured(best, has and best.p90_ms <= SPREAD * best.median_ms)
