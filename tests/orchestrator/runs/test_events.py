import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimctl.jobs.storage.blobs import Blobs, LocalBlobs
from slimctl.orchestrator.runs import events
from slimctl.orchestrator.runs.events import Event, EventLog, events_folder, read_events, read_log

TEXT = st.text() | st.sampled_from(["\u2028", "\x85", "\r\n", "\ud800", "\0"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))
ADDED = st.tuples(
    st.sampled_from(["progress", "log"]),
    st.sampled_from(["", "data"]),
    st.dictionaries(TEXT, VALUES),
)


class MemoryBlobs(LocalBlobs):
    """Blobs in memory that note each write."""

    def __init__(self) -> None:
        self.uri = "memory"
        self.held: dict[str, bytes] = {}
        self.writes: list[str] = []

    def read(self, name: str) -> bytes:
        return self.held[name]

    def folders(self, prefix: str = "") -> list[str]:
        inside = (name.removeprefix(f"{prefix}/") for name in self.names(f"{prefix}/"))
        return sorted({name.partition("/")[0] for name in inside if "/" in name})

    def write(self, name: str, data: bytes) -> None:
        self.held[name] = data
        self.writes.append(name)

    def names(self, prefix: str = "") -> list[str]:
        return sorted(name for name in self.held if name.startswith(prefix))


def log_of(blobs: Blobs, count: int) -> EventLog:
    log = EventLog(blobs, "run")
    for number in range(count):
        log.add("log", "data", message=f"line {number}")
    log.flush()
    return log


def back(blobs: Blobs) -> list[Event]:
    return list(read_events(blobs, "run"))


@given(st.lists(ADDED, max_size=20), st.sets(st.integers(0, 20)), st.integers(1, 2000))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.data_too_large])
def test_what_is_read_back_is_what_was_added(added, flushes, limit):
    """Whatever the texts hold, wherever it is flushed, however small the segments."""
    blobs = MemoryBlobs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "SEGMENT_BYTES", limit)
        log = EventLog(blobs, "run")
        for number, (name, job, details) in enumerate(added):
            log.add(name, job, **details)
            if number in flushes:
                log.flush()
        log.flush()
    assert back(blobs) == log.events
    assert [(e.name, e.job, e.details) for e in log.events] == added
    assert [event.number for event in log.events] == list(range(len(added)))
    one_line = max(
        (len(line) for data in blobs.held.values() for line in data.splitlines()), default=0
    )
    header = 120
    assert all(len(data) <= max(limit, one_line + 1) + header for data in blobs.held.values())


def test_a_full_segment_is_never_written_again(monkeypatch):
    monkeypatch.setattr(events, "SEGMENT_BYTES", 700)
    blobs = MemoryBlobs()
    log = log_of(blobs, 0)
    for number in range(40):
        log.add("log", "data", message=f"line {number}")
        log.flush()
    names = list(dict.fromkeys(blobs.writes))
    folder = f"{events_folder('run')}/{log.claim}"
    assert names == [f"{folder}/{number:06d}.jsonl" for number in range(len(names))]
    assert len(names) > 5
    assert blobs.writes == sorted(blobs.writes)
    assert all(len(data) <= 700 + 120 for data in blobs.held.values())


def test_nothing_is_written_when_nothing_was_added():
    blobs = MemoryBlobs()
    log = log_of(blobs, 3)
    log.flush()
    log.flush()
    assert len(blobs.writes) == 1


def test_a_restarted_writer_leaves_earlier_segments_alone(tmp_path):
    blobs = LocalBlobs(tmp_path)
    log_of(blobs, 3)
    before = {name: blobs.read(name) for name in blobs.names()}
    for restart in range(2):
        log = EventLog(blobs, "run")
        assert len(log.events) == 3 + restart
        log.add("log", "data", message="more")
        log.flush()
    assert {name: blobs.read(name) for name in before} == before
    assert [event.number for event in back(blobs)] == [0, 1, 2, 3, 4]


def test_a_segment_that_is_gone_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "SEGMENT_BYTES", 300)
    blobs = LocalBlobs(tmp_path)
    log = log_of(blobs, 6)
    blobs.write(f"{events_folder('run')}/notes.txt", b"stray")
    names = [name for name in blobs.names() if name.endswith("jsonl")]
    assert len(names) > 2
    assert read_log(blobs, "run").damaged == []
    blobs.delete(names[1])
    (damage,) = read_log(blobs, "run").damaged
    assert "before 000002.jsonl is missing" in damage
    assert EventLog(blobs, "run").claim > log.claim


@pytest.mark.parametrize(
    "torn", [b"", b'{"number": 1, "ti', b"\xff\xfe", b"[]", b"null", b'{"number": 1}']
)
def test_lines_that_are_no_events_are_passed_over_and_reported(tmp_path, torn):
    blobs = LocalBlobs(tmp_path)
    log_of(blobs, 3)
    (name,) = blobs.names()
    head, first, _, last, end = blobs.read(name).split(b"\n")
    blobs.write(name, b"\n".join([head, first, torn, last, end]))
    assert [event.number for event in back(blobs)] == [0, 2]
    assert read_log(blobs, "run").damaged == [f"{name}: 1 line(s) of it are not what was written"]
    log = EventLog(blobs, "run")
    assert log.add("log", message="x").number == 3, "numbers are never given twice"


@pytest.mark.parametrize("kept", [0, 1, 50, -1, -9, -200])
def test_a_torn_end_is_passed_over_and_reported(tmp_path, kept):
    blobs = LocalBlobs(tmp_path)
    log_of(blobs, 3)
    (name,) = blobs.names()
    blobs.write(name, blobs.read(name)[:kept])
    assert [event.number for event in back(blobs)] == list(range(len(back(blobs))))
    assert len(read_log(blobs, "run").damaged) == 1


def test_no_changed_byte_is_believed(tmp_path):
    """Whatever byte of a segment changes, what is read was written, or the file is named."""
    blobs = LocalBlobs(tmp_path)
    log = log_of(blobs, 2)
    (name,) = blobs.names()
    data = blobs.read(name)
    for at in range(len(data)):
        blobs.write(name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        found = read_log(blobs, "run")
        assert found.damaged, at
        assert all(event in log.events for event in found.events)


def test_the_later_writer_is_read(tmp_path):
    """What an old writer says after a new one took over is not."""
    blobs = LocalBlobs(tmp_path)
    old = log_of(blobs, 3)
    assert not old.is_fenced()
    new = EventLog(blobs, "run")
    new.take_over()
    assert old.is_fenced()
    assert not new.is_fenced()
    old.add("log", "data", message="old")
    old.flush()
    assert [event.details["message"] for event in back(blobs)][3:] == ["old"]
    new.add("log", "data", message="new")
    new.flush()
    old.add("log", "data", message="old again")
    old.flush()
    assert [event.details["message"] for event in back(blobs)][3:] == ["new"]
    assert [event.number for event in back(blobs)] == [0, 1, 2, 3]


def test_a_flush_is_all_or_nothing(tmp_path, monkeypatch):
    """A disk that fills up leaves the last whole segment, and the next flush has everything."""
    blobs = LocalBlobs(tmp_path)
    log = log_of(blobs, 2)
    log.add("log", "data", message="late")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    assert len(back(blobs)) == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["000000.jsonl"]
    log.flush()
    assert back(blobs) == log.events


def test_numbers_that_json_has_no_word_for_come_back():
    blobs = MemoryBlobs()
    log = EventLog(blobs, "run")
    log.add("progress", "data", metrics={"loss": math.nan, "norm": math.inf})
    log.flush()
    (event,) = back(blobs)
    assert math.isnan(event.details["metrics"]["loss"])
    assert event.details["metrics"]["norm"] == math.inf


def test_values_that_are_not_json_are_written_as_text():
    blobs = MemoryBlobs()
    log = EventLog(blobs, "run")
    log.add("log", "data", message=1 + 2j)
    log.flush()
    assert back(blobs)[0].details == {"message": "(1+2j)"}


def test_each_line_is_one_json_object(tmp_path):
    blobs = LocalBlobs(tmp_path)
    log_of(blobs, 3)
    (name,) = blobs.names()
    lines = blobs.read(name).decode("ascii").splitlines()
    assert json.loads(lines[0])["lines"] == 3
    assert [json.loads(line)["details"]["message"] for line in lines[1:]] == [
        "line 0",
        "line 1",
        "line 2",
    ]
