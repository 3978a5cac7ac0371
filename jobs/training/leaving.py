"""Notices that a training's process or node is going to be taken away.

They come as SIGTERM or SIGUSR1 (from Slurm, or whoever ends the process) or from Ray, which knows
of nodes that are drained. The first worker, which writes the checkpoints, makes one of the moment
and ends the attempt; the others, and the run's supervisor, tell it by a file in the work folder.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from slimctl.jobs.base.drain import ask_to_leave, asked_to_leave, draining, forget_notice
from slimctl.jobs.storage.blobs import Blobs

POLL_S = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class _Asked:
    """What this process was asked by a signal."""

    reason = ""


def _take(number: int, _: object) -> None:
    _Asked.reason = f"{signal.Signals(number).name} came"


def listen() -> None:
    """Takes the signals from now on, for the rest of this process; in its main thread."""
    for number in SIGNALS:
        signal.signal(number, _take)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Takes the signals meanwhile, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _Asked.reason = ""
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Leaving:
    """Whether a worker of a training has to leave.

    Args:
        folder: of the training's unfinished work.
        rank: of the worker; None = the process that started the workers.
    """

    def __init__(self, folder: Blobs, rank: int | None) -> None:
        self._folder = folder
        self._rank = rank
        self._over = threading.Event()
        self._reason = ""

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Looks for notices meanwhile; forgets those of an earlier attempt."""
        if self._rank == 0:
            forget_notice(self._folder)
        threading.Thread(target=self._watch, name="leaving", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def why(self) -> str:
        """Why the first worker has to leave; "" on the others, and where nobody has to."""
        return (self._reason or _Asked.reason) if self._rank == 0 else ""

    def _watch(self) -> None:
        while not self._reason and not self._over.wait(POLL_S):
            with contextlib.suppress(OSError):  # a storage that stumbles is asked again
                reason = _Asked.reason or _drained()
                if self._rank != 0 and reason:
                    who = "the job" if self._rank is None else f"worker {self._rank}"
                    ask_to_leave(self._folder, f"{who}: {reason}")
                elif self._rank == 0:
                    reason = reason or asked_to_leave(self._folder)
                self._reason = reason


def _drained() -> str:
    """That this node is drained, if Ray knows it; "" if not."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return ""
    node = ray.get_runtime_context().get_node_id()
    return f"node {node} is drained" if node in draining() else ""
