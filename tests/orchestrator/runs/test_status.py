import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.status import FINAL, RATE_WINDOW, JobState, RunStatus, apply, fold

JOBS = {
    "data": {"kind": "load_dataset", "key": "d0", "artifact": "load_dataset-d0", "after": []},
    "flow": {
        "kind": "analytic_flow",
        "key": "f0",
        "artifact": "analytic_flow-f0",
        "after": ["data"],
    },
}
STARTED = ("run_started", "", {"name": "digits", "jobs": JOBS, "tracking": None})
FAILURE = {"failure": "JobFailed", "where": "job 'data'", "what": "it broke", "fix": "repair it"}

Told = tuple[str, str, dict[str, Any]]


def after(*said: Told, clock: float = 100.0) -> RunStatus:
    """The status after events one second apart, the first at `clock`."""
    return fold(
        "run-1",
        (
            Event(number=at, time=clock + at, name=name, job=job, details=details)
            for at, (name, job, details) in enumerate(said)
        ),
    )


def progress(done: int, total: int = 100, **metrics: float) -> Told:
    return ("progress", "data", {"done": done, "total": total, "metrics": metrics})


BEGUN = ("job_started", "data", {"attempt": 1})


def test_nothing_is_known_before_the_first_event():
    assert after() == RunStatus(run="run-1")


def test_a_run_starts_with_all_its_jobs_waiting():
    status = after(STARTED)
    assert (status.name, status.state, status.started, status.ended) == (
        "digits",
        "running",
        100,
        None,
    )
    assert status.counts() == {"waiting": 2}
    assert status.jobs["flow"].after == ["data"]
    assert status.jobs["flow"].artifact == "analytic_flow-f0"


def test_a_job_runs_and_is_done():
    status = after(STARTED, BEGUN, progress(5, loss=2.0), progress(9, grad=1.0))
    job = status.jobs["data"]
    assert (job.state, job.attempt, job.started, job.done, job.total) == ("running", 1, 101, 9, 100)
    assert job.metrics == {"loss": 2.0, "grad": 1.0}
    assert job.seconds(now=111.0) == 10.0
    status = after(STARTED, BEGUN, ("job_done", "data", {"wall_s": 1.0, "device_s": 7.0}))
    job = status.jobs["data"]
    assert (job.state, job.ended, job.device_s) == ("done", 102, 7.0)
    assert job.seconds(now=999.0) == 1.0
    assert status.counts() == {"done": 1, "waiting": 1}


@pytest.mark.parametrize("state", sorted(FINAL))
def test_every_way_to_end_has_its_event(state):
    job = after(STARTED, (f"job_{state}", "data", {})).jobs["data"]
    assert job.state == state
    assert job.ended == 101
    assert job.seconds(now=999.0) == 0.0, "it never ran"


def test_the_states_are_these():
    assert set(get_args(JobState)) == FINAL | {"waiting", "running", "interrupted"}


def test_a_failure_is_reported_whole():
    job = after(STARTED, BEGUN, ("job_failed", "data", FAILURE)).jobs["data"]
    assert (job.failure, job.where, job.message, job.fix) == (
        "JobFailed", "job 'data'", "it broke", "repair it",
    )  # fmt: skip


def test_another_attempt_starts_afresh():
    job = after(
        STARTED,
        BEGUN,
        progress(5),
        ("retry", "data", {"what": "its worker died", "attempt": 1, "pause_s": 1.0}),
        ("job_started", "data", {"attempt": 2}),
    ).jobs["data"]
    assert (job.state, job.attempt, job.message) == ("running", 2, "its worker died")
    assert job.points == [], "the rate of the first attempt says nothing of the second"
    assert job.started == 104


def test_what_is_tried_again_may_end_well():
    said = (STARTED, BEGUN, ("retry", "data", {"what": "lost", "attempt": 1, "pause_s": 1.0}))
    job = after(*said, ("job_started", "data", {"attempt": 2}), ("job_done", "data", {})).jobs[
        "data"
    ]
    assert (job.state, job.failure, job.message) == ("done", "", "")


def test_warnings_are_kept():
    status = after(
        STARTED,
        ("warning", "data", {"message": "few images"}),
        ("warning", "data", {"message": "grey"}),
        ("warning", "", {"message": "tracking is incomplete"}),
    )
    assert status.jobs["data"].warnings == ["few images", "grey"]
    assert status.message == "tracking is incomplete"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_run_ends(state):
    status = after(STARTED, ("run_ended", "", {"state": state}))
    assert (status.state, status.ended) == (state, 101)


def test_a_supervisor_that_came_back_goes_on_with_what_is_known():
    status = after(STARTED, BEGUN, ("job_done", "data", {}), STARTED)
    assert status.started == 100
    assert status.jobs["data"].state == "done"
    assert after(STARTED, ("run_ended", "", {"state": "failed"}), STARTED).state == "running"


@pytest.mark.parametrize(
    "unknown",
    [
        ("job_teleported", "data", {}),
        ("run_paused", "", {}),
        ("progress", "nobody", {"done": 1, "total": 2}),
        ("job_done", "nobody", {}),
        ("", "", {}),
    ],
)
def test_unknown_events_are_ignored(unknown):
    assert after(STARTED, unknown) == after(STARTED)


def test_rate_and_time_left():
    """Ten units a second for three seconds: 70 of 100 left take seven."""
    job = after(STARTED, BEGUN, *(progress(10 * at) for at in range(4))).jobs["data"]
    assert job.rate() == pytest.approx(10.0)
    assert job.eta_s() == pytest.approx(7.0)


def test_units_under_way_count_for_the_time_left():
    parts = [("progress", "data", {"done": 1, "total": 4, "metrics": {}, "exact": exact})
             for exact in (1.0, 1.5)]  # fmt: skip
    job = after(STARTED, BEGUN, *parts).jobs["data"]
    assert (job.done, job.total) == (1, 4)
    assert job.eta_s() == pytest.approx(5.0)


def test_jobs_of_trials_come_while_a_run_goes_on():
    job = {"kind": "evaluate", "key": "k", "artifact": "evaluate-k", "search": "data",
           "inputs": {"b": "x", "a": "y"}}  # fmt: skip
    added = ("jobs_added", "data", {"jobs": {"data.seed=1.quality": job}})
    stopped = ("job_stopped", "data.seed=1.quality", {"what": "behind"})
    found = after(STARTED, added, stopped, added).jobs["data.seed=1.quality"]
    assert (found.state, found.message, found.search) == ("stopped", "behind", "data")
    assert found.after == ["a", "b"]


def test_the_rate_is_that_of_the_last_points():
    slow = [progress(at) for at in range(50)]
    fast = [progress(50 + 100 * at, 10**6) for at in range(RATE_WINDOW)]
    job = after(STARTED, BEGUN, *slow, *fast).jobs["data"]
    assert len(job.points) == RATE_WINDOW
    assert job.rate() == pytest.approx(100.0)


@pytest.mark.parametrize("points", [[], [5], [5, 5], [9, 5]])
def test_no_rate_is_made_up(points):
    job = after(STARTED, BEGUN, *(progress(done) for done in points)).jobs["data"]
    assert job.rate() is None
    assert job.eta_s() is None


def test_no_time_is_left_where_no_end_is_known():
    job = after(STARTED, BEGUN, progress(1, 0), progress(2, 0)).jobs["data"]
    assert job.rate() == pytest.approx(1.0)
    assert job.eta_s() is None


TOLD = st.sampled_from(
    [
        STARTED, BEGUN, progress(3), progress(7, loss=1.0),
        ("retry", "data", {"what": "lost"}), ("job_done", "data", {"device_s": 1.0}),
        ("job_reused", "flow", {}), ("job_failed", "flow", FAILURE), ("job_blocked", "flow", {}),
        ("job_cancelled", "data", {}), ("run_ended", "", {"state": "done"}), ("log", "data", {}),
    ]
)  # fmt: skip


@given(st.lists(TOLD))
def test_the_fold_is_the_same_in_steps_and_survives_json(said):
    whole = after(*said)
    stepwise = RunStatus(run="run-1")
    for at, (name, job, details) in enumerate(said):
        apply(stepwise, Event(number=at, time=100.0 + at, name=name, job=job, details=details))
    assert stepwise == whole
    assert RunStatus.model_validate(json.loads(whole.model_dump_json())) == whole
    assert sum(whole.counts().values()) == len(whole.jobs)
