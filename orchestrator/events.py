"""The event log of a run: numbered segments of JSON lines with one writer.

A segment is rewritten whole, atomically, until it is full, so the log reads the same from a folder
and from an object store, and a torn line cannot exist. Lines are ASCII: whatever a message holds,
it neither breaks a line nor fails to be written.
"""

import json
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from jobs.storage.blobs import Blobs
from models.spec import Spec

SEGMENT_BYTES = 128 * 1024


class Event(Spec):
    """Something that happened in a run."""

    number: int
    """Position in the run, from 0."""
    time: float
    """Unix time, s."""
    name: str
    """What happened: run_started, job_started, progress, log, warning, retry, job_done, job_reused,
    job_failed, job_blocked, job_cancelled, run_ended."""
    job: str = ""
    """Job concerned; "" for the run itself."""
    details: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies defaults)


def events_folder(run: str) -> str:
    """Folder of a run's events inside the storage."""
    return f"runs/{run}/events"


class EventLog:
    """Writes the events of one run; there is one writer per run.

    Args:
        blobs: the storage.
        run: run id.
    """

    def __init__(self, blobs: Blobs, run: str) -> None:
        self._blobs = blobs
        self._folder = events_folder(run)
        self._lines: list[str] = []
        self._size = 0
        self._dirty = False
        self.events = list(read_events(blobs, run))
        self._segment = 1 + max(map(_segment_number, blobs.names(self._folder)), default=-1)

    def add(self, name: str, job: str = "", /, **details: Any) -> Event:
        """Appends an event in memory; `flush` makes it durable."""
        number = self.events[-1].number + 1 if self.events else 0
        event = Event(number=number, time=time.time(), name=name, job=job, details=details)
        line = json.dumps(event.model_dump(), default=str) + "\n"
        if self._lines and self._size + len(line) > SEGMENT_BYTES:
            self.flush()
            self._segment += 1
            self._lines, self._size = [], 0
        self._lines.append(line)
        self._size += len(line)
        self._dirty = True
        self.events.append(event)
        return event

    def flush(self) -> None:
        """Writes what was added since the last flush."""
        if self._dirty:
            name = f"{self._folder}/{self._segment:06d}.jsonl"
            self._blobs.write(name, "".join(self._lines).encode("ascii"))
            self._dirty = False


def _segment_number(name: str) -> int:
    """Number of a segment; -1 for a file that is none."""
    stem = PurePosixPath(name).stem
    return int(stem) if stem.isdecimal() else -1


def read_events(blobs: Blobs, run: str) -> Iterator[Event]:
    """All events of a run in order; lines that are no events are passed over."""
    for name in blobs.names(events_folder(run)):
        for line in blobs.read(name).split(b"\n"):
            try:
                yield Event.model_validate(json.loads(line))
            except ValueError:
                continue
