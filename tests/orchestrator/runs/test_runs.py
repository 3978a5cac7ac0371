import json
import time

import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage import lease
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import (
    find_run,
    new_run_id,
    read_pipeline,
    read_status,
    run_ids,
    run_lease,
    save_pipeline,
)

OLD, NEW, OTHER = (
    "digits-20260101-120000-aaaa",
    "digits-20260102-090000-0000",
    "abc-20260101-130000-1111",
)


@pytest.fixture
def blobs(tmp_path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


@pytest.fixture
def three(blobs) -> LocalBlobs:
    for run in (NEW, OLD, OTHER):
        save_pipeline(blobs, run, "name: digits\n")
    return blobs


def start(blobs: LocalBlobs, run: str, *ended: str) -> None:
    log = EventLog(blobs, run)
    log.add("run_started", name="digits", jobs={}, tracking=None)
    for state in ended:
        log.add("run_ended", state=state)
    log.flush()


def test_run_ids_differ_and_sort_by_time(blobs):
    ids = [new_run_id("digits") for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(run.startswith("digits-2") for run in ids)


def test_the_pipeline_is_kept(blobs):
    text = "name: übung\n"
    save_pipeline(blobs, OLD, text)
    assert read_pipeline(blobs, OLD) == text


def test_runs_are_listed_oldest_first_whatever_their_name(three):
    assert run_ids(three) == [OLD, OTHER, NEW]


def test_a_run_whose_supervisor_breathes_is_running(blobs):
    start(blobs, OLD)
    run_lease(blobs, OLD).renew()
    assert run_lease(blobs, OLD).is_alive()
    assert read_status(blobs, OLD).state == "running"


def test_a_run_with_a_stale_lease_is_interrupted(blobs, monkeypatch):
    start(blobs, OLD)
    run_lease(blobs, OLD).renew()
    later = time.time() + lease.DEAD_AFTER_S + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not run_lease(blobs, OLD).is_alive()
    assert read_status(blobs, OLD).state == "interrupted"


def test_nothing_of_an_interrupted_run_is_running(blobs):
    log = EventLog(blobs, OLD)
    jobs = {name: {"kind": "distill", "key": "k", "artifact": f"a-{name}"} for name in "ab"}
    log.add("run_started", name="digits", jobs=jobs, tracking=None)
    log.add("job_started", "a", attempt=1)
    log.flush()
    status = read_status(blobs, OLD)
    assert (status.state, status.ended) == ("interrupted", None)
    assert (status.jobs["a"].state, status.jobs["b"].state) == ("interrupted", "waiting")
    assert status.jobs["a"].ended is not None


@pytest.mark.parametrize("written", [None, b"", b"{", b"[]", b"{}", b'{"time": null}', b"\xff"])
def test_a_lease_that_cannot_be_read_is_none(blobs, written):
    start(blobs, OLD)
    if written is not None:
        blobs.write(f"runs/{OLD}/lease.json", written)
    assert read_status(blobs, OLD).state == "interrupted"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_run_that_ended_needs_no_lease(blobs, state):
    start(blobs, OLD, state)
    assert read_status(blobs, OLD).state == state


def test_the_lease_outlives_a_few_missed_beats():
    assert lease.DEAD_AFTER_S >= 5 * lease.RENEW_EVERY_S


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, NEW),
        (OLD, OLD),
        ("abc", OTHER),
        ("digits", NEW),
        ("digits-20260102", NEW),
        ("digits-20260101", OLD),
    ],
)
def test_a_run_is_found_by_what_names_it(three, name, found):
    assert find_run(three, name) == found


def test_a_whole_name_is_not_ambiguous(three):
    save_pipeline(three, f"{OLD}b", "")
    assert find_run(three, OLD) == OLD


def said(blobs: LocalBlobs, name: str | None) -> str:
    with pytest.raises(UserError) as caught:
        find_run(blobs, name)
    return str(caught.value)


def test_an_ambiguous_beginning_is_refused(three):
    text = said(three, "digits-")
    assert "'digits-' means 2 runs" in text
    assert OLD in text
    assert NEW in text
    assert "type more of it" in text


def test_an_unknown_run_is_refused_with_the_nearest(three):
    text = said(three, "digits-20260102-090000-00x0")
    assert "there is no run 'digits-20260102-090000-00x0'" in text
    assert f"did you mean '{NEW}'?" in text


def test_a_storage_without_runs_says_so(blobs):
    assert "there are no runs" in said(blobs, None)
    assert "slimctl submit" in said(blobs, "digits")


def test_the_lease_is_a_time(blobs, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1234.5)
    run_lease(blobs, OLD).renew()
    assert json.loads(blobs.read(f"runs/{OLD}/lease.json"))["time"] == 1234.5
