"""The event log of a run: numbered segments of sealed JSON lines, one writer at a time.

Each writer has a claim of its own, `events/<epoch>-<token>/`, and never touches another's: an old
supervisor that wakes up after a new one took over can write what it likes, nobody reads it. A
segment is rewritten whole, atomically, until it is full, so the log reads the same from a folder
and from an object store. Its first line counts the others, and every line carries its checksum:
what is cut or changed is named, and never believed. Lines are ASCII: whatever a message holds, it
neither breaks a line nor fails to be written.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.lease import claim_number, next_claim
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.models.spec import Spec

SEGMENT_BYTES = 128 * 1024


class Event(Spec):
    """Something that happened in a run."""

    number: int
    """Position in the run, from 0."""
    time: float
    """Unix time, s."""
    name: str
    """What happened: run_started, run_resumed, waiting, jobs_added, job_started, progress, log,
    warning, retry, job_done, job_reused, job_failed, job_blocked, job_stopped, job_cancelled,
    run_ended."""
    job: str = ""
    """Job concerned; "" for the run itself."""
    details: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies defaults)


def events_folder(run: str) -> str:
    """Folder of a run's events inside the storage."""
    return f"runs/{run}/events"


@dataclass
class _Segment:
    """A file of the log in the making."""

    number: int
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    dirty: bool = False

    def data(self) -> bytes:
        return b"\n".join([seal({"lines": len(self.lines)}), *self.lines, b""])


class EventLog:
    """Writes the events of one run."""

    def __init__(self, blobs: Blobs, run: str) -> None:
        self._blobs = blobs
        self._run = run
        self.events = list(read_events(blobs, run))
        self.claim = next_claim(_claims(blobs, run))
        self._segments = [_Segment(0)]
        """Those that are not written whole, the last one open."""

    def add(self, name: str, job: str = "", /, **details: Any) -> Event:
        """Appends an event in memory; `flush` makes it durable."""
        number = self.events[-1].number + 1 if self.events else 0
        event = Event(number=number, time=time.time(), name=name, job=job, details=details)
        line = seal(event.model_dump())
        last = self._segments[-1]
        if last.lines and last.size + len(line) >= SEGMENT_BYTES:
            last = _Segment(last.number + 1)
            self._segments.append(last)
        last.lines.append(line)
        last.size += len(line) + 1
        last.dirty = True
        self.events.append(event)
        return event

    def take_over(self) -> None:
        """Makes the claim visible: from now on other writers of this run are fenced off."""
        self._segments[-1].dirty = True
        self.flush()

    def flush(self) -> None:
        """Writes what was added since the last flush.

        Raises:
            OSError: the storage cannot be written now; the next flush writes everything.
        """
        for segment in list(self._segments):
            if segment.dirty:
                name = f"{events_folder(self._run)}/{self.claim}/{segment.number:06d}.jsonl"
                self._blobs.write(name, segment.data())
                segment.dirty = False
            if segment is not self._segments[-1]:
                self._segments.remove(segment)

    def is_fenced(self) -> bool:
        """Whether a later writer took the run over."""
        return max(_claims(self._blobs, self._run), default="") > self.claim


@dataclass
class LogRead:
    """What a log holds."""

    events: list[Event] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """What is wrong with which file, one sentence each."""


def read_log(blobs: Blobs, run: str) -> LogRead:
    """All events of a run in order, and what of its log is damaged."""
    found = LogRead()
    ahead: dict[str, int] = {}
    for name in blobs.names(events_folder(run)):
        path = PurePosixPath(name)
        if not path.stem.isdecimal() or claim_number(path.parent.name) < 0:
            continue
        claim = path.parent.name
        if int(path.stem) != ahead.get(claim, 0):
            found.damaged.append(f"{path.parent}: a segment before {path.name} is missing")
        ahead[claim] = int(path.stem) + 1
        _read_segment(found, name, blobs.read(name), is_first=int(path.stem) == 0)
    return found


def _read_segment(found: LogRead, name: str, data: bytes, *, is_first: bool) -> None:
    lines = data.split(b"\n")
    events: list[Event] = []
    damaged = 0
    for line in lines[1:-1]:
        try:
            events.append(Event.model_validate(unseal(line)))
        except ValueError:
            damaged += 1
    try:
        expected = int(unseal(lines[0])["lines"])
    except (ValueError, KeyError, TypeError):
        expected = -1
    if damaged or expected != len(events) or lines[-1]:
        lost = f"{max(damaged, expected - len(events), 1)} line(s)"
        found.damaged.append(f"{name}: {lost} of it are not what was written")
    if is_first and events:  # what an earlier writer said after this one took over does not count
        first = events[0].number
        found.events = [event for event in found.events if event.number < first]
    found.events += events


def read_events(blobs: Blobs, run: str) -> Iterator[Event]:
    """All events of a run in order; what is damaged is passed over."""
    yield from read_log(blobs, run).events


def _claims(blobs: Blobs, run: str) -> list[str]:
    return [name for name in blobs.folders(events_folder(run)) if claim_number(name) >= 0]
