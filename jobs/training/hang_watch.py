"""Ends a worker whose training stands still, and says where it stood.

Workers wait for each other once a step, so one that hangs keeps all from the next one. A thread of
each worker notices that, writes its stacks to the job's log and to the work folder, and ends the
process, whose own thread may hang in a library for ever.
"""

import faulthandler
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from slimctl.jobs.storage.blobs import Blobs
from slimctl.models.spec import Spec

FOLDER = "hang"
START_S = 1800.0
"""Longest time before the first step: data may be fetched, and networks compiled."""
GRACE_S = 5.0
"""How long the others are left to report, too: the end of one ends their exchange."""
EXIT_CODE = 70
MOST = 20_000
"""Characters of stacks that are logged."""
LIBRARY = f"{os.sep}torch{os.sep}"
"""In the path of a file in which a worker waits for the others."""


class Stand(Spec):
    """Where a worker stood."""

    rank: int
    step: int
    """Optimizer steps that it had taken."""
    at: str
    """Innermost function of ours, with file and line."""
    waits: bool
    """Whether it was inside torch, as those are who wait for the others."""


class HangWatch:
    """Watches one worker of several.

    Args:
        limit_s: longest time between two steps.
        folder: takes where it stood.
        say: takes its stacks.
        rank: of the worker.
        world: number of workers.
    """

    def __init__(
        self, limit_s: float, folder: Blobs, say: Callable[[str], None], rank: int, world: int
    ) -> None:
        self._limit_s = limit_s
        self._folder = folder
        self._say = say
        self._rank = rank
        self._world = world
        self._step = 0
        self._until = time.monotonic() + max(limit_s, START_S)
        self._watched = threading.get_ident()
        self._over = threading.Event()

    def alive(self, step: int) -> None:
        """Takes note that a step was taken."""
        self._step = step
        self._until = time.monotonic() + self._limit_s

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the thread that enters it."""
        threading.Thread(target=self._watch, name="hang watch", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._limit_s / 4)):
            if time.monotonic() > self._until:
                self._report()
                time.sleep(GRACE_S)
                os._exit(EXIT_CODE)

    def _report(self) -> None:
        at, waits = _place(self._watched)
        stand = Stand(rank=self._rank, step=self._step, at=at, waits=waits)
        title = (
            f"worker {self._rank} of {self._world} took no step for {self._limit_s:g} s after "
            f"step {self._step}; its stacks:"
        )
        self._say(f"{title}\n{stacks()[:MOST]}")
        self._folder.write(f"{FOLDER}/{self._rank}.json", stand.model_dump_json().encode())


def stacks() -> str:
    """The stacks of all threads of this process, and the exchanges of torch that are under way."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        found = file.read()
    return f"{found}\nexchanges under way: {_exchanges()}"


def _exchanges() -> str:
    """What torch's flight recorder holds of exchanges that have not ended, as JSON."""
    import torch  # noqa: PLC0415

    if not torch.distributed.is_available():
        return "[]"
    library: Any = torch._C._distributed_c10d  # noqa: SLF001
    record = library._dump_fr_trace_json(onlyActive=True)  # noqa: SLF001
    return json.dumps(json.loads(record).get("entries", []))


def _place(thread: int) -> tuple[str, bool]:
    """Where a thread stands in our code, and whether it is in torch from there on."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  (there is no other way to ask)
    waits = frame is not None and LIBRARY in frame.f_code.co_filename
    while frame is not None and LIBRARY in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "an unknown place", waits
    code = frame.f_code
    return f"{code.co_name} ({Path(code.co_filename).name}:{frame.f_lineno})", waits


def hung_at(folder: Blobs) -> str:
    """Who kept the others waiting, and where, by what workers left that stood still; "" = none."""
    found: list[Stand] = []
    for name in folder.names(FOLDER):
        try:
            found.append(Stand.model_validate_json(folder.read(name)))
        except (FileNotFoundError, ValidationError):
            continue  # it was ended while it wrote
    if not found:
        return ""
    late = [stand for stand in found if not stand.waits] or found
    step = min(stand.step for stand in found)
    places = "; ".join(f"worker {each.rank} stood in {each.at}" for each in late)
    return f"no worker got beyond step {step}: {places}"


def forget(folder: Blobs) -> None:
    """Removes what an earlier attempt left."""
    folder.delete(FOLDER)
