"""A trial beside the search: its scores come out in order, and it can be stopped."""

import threading

import pytest

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import Ended
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.search import background
from slimctl.jobs.search.background import PENALTY, SCORE, STEP, TrialInBackground, goal_of
from slimctl.jobs.search.spec import Asha
from slimctl.jobs.search.trial import Stopped, SweepTask, note, noted
from slimctl.jobs.training.score_curve import note_score

TEMPLATE = {
    "student": {
        "kind": "anneal_reflow", "pairs": "pairs", "data": "data", "steps": 30,
        "network": {"kind": "mlp", "width": "${width}"}, "batch_size": 4, "shared": True,
    }
}  # fmt: skip
VALUES = {"width": 8}
GOALS = {"q.fid": PENALTY}


@pytest.fixture
def task(store, make_dataset, make_analytic, make_pairs, recorder) -> SweepTask:
    data = make_dataset(count=20)
    pairs = make_pairs(make_analytic(data), count=10)
    return SweepTask(
        "sizes", "sweep-1", TEMPLATE, {"pairs": pairs.id, "data": data.id}, {}, 0, store,
        Cluster(cpus=1), None, recorder, 3, ("q.fid",), Asha(watch="student", grace_period=10), 30,
    )  # fmt: skip


class ByHand:
    """A training that takes the scores it is told to, until it is let go or stopped."""

    def __init__(self, task):
        self.task = task
        self.artifact = None
        self.started, self.over = threading.Event(), threading.Event()
        self.stopped = False

    def __call__(self, job):
        self.artifact = job.artifact
        self.started.set()
        assert self.over.wait(20)
        if self.stopped:
            raise Stopped
        return Ended("the end of the test")

    def score(self, step, value):
        note_score(self.task.store.work(self.artifact), step, value)

    def stop(self):
        self.stopped = True
        self.over.set()


@pytest.fixture
def under_way(task, monkeypatch):
    monkeypatch.setattr(background, "POLL_S", 0.01)
    place = ByHand(task)
    trial = TrialInBackground(task, VALUES, place, place.stop)
    assert place.started.wait(10)
    return trial, place


def test_scores_come_one_by_one(under_way):
    trial, place = under_way
    for step, value in ((0, 9.0), (10, 5.0), (20, 4.0)):
        place.score(step, value)
    points = [trial.next(GOALS) for _ in range(2)]
    assert points == [
        {**GOALS, STEP: 10, SCORE: 5.0, "done": False},
        {**GOALS, STEP: 20, SCORE: 4.0, "done": False},
    ]
    place.score(30, 3.0)
    place.over.set()
    assert trial.next(GOALS)[SCORE] == 3.0  # none is missed, though it has ended
    assert trial.next(GOALS) == {**GOALS, STEP: 30, SCORE: 3.0, "done": True}


def test_a_stopped_trial_is_noted_with_its_scores(under_way, task, recorder):
    trial, place = under_way
    place.score(10, 5.0)
    trial.next(GOALS)
    trial.end()
    (found,) = noted(task)
    assert (found.state, found.scores) == ("stopped", ((10, 5.0),))
    assert recorder.said("log")[-1]["message"].startswith("width 8: stopped: its scores fell")
    again = TrialInBackground(task, VALUES, place, place.stop)  # as after a crash
    points = [again.next(GOALS) for _ in range(2)]
    assert [point["done"] for point in points] == [False, True]
    assert noted(task) == [found]


def test_a_trial_that_nobody_judged_is_not_noted_as_stopped(under_way, task):
    """Tune ends all trials when it fails itself."""
    trial, place = under_way
    place.score(5, 5.0)  # before the grace period
    trial.next(GOALS)
    trial.end()
    assert place.stopped
    assert noted(task) == []


def test_a_finished_trial_stays_so(task, store, under_way):
    """After a crash its scores are told again, and it can no longer be stopped."""
    trial, place = under_way
    for step in (10, 20):
        place.score(step, 5.0)
    place.over.set()
    while not trial.next(GOALS)["done"]:
        pass
    (failed,) = noted(task)
    made = task.outside["data"]  # something that is there
    note(task, failed.model_copy(update={"state": "done", "artifacts": {"q": made}}))

    def run_again(job):
        raise AssertionError

    again = TrialInBackground(task, VALUES, run_again, lambda: None)
    points = [again.next(GOALS) for _ in range(3)]
    assert [point[STEP] for point in points] == [10, 20, 20]
    again.end()
    assert [one.state for one in noted(task)] == ["done"]
    gone = failed.model_copy(update={"state": "done", "artifacts": {"q": "evaluate-gone"}})
    note(task, gone)
    place.over.clear()
    place.started.clear()
    TrialInBackground(task, VALUES, place, place.stop)
    assert place.started.wait(10), "what was lost is made again"
    place.over.set()


def test_the_goals_of_a_finished_trial_come_with_its_last_scores(under_way, task, monkeypatch):
    """Else a search that stops it at one of them would take it for a bad one."""
    trial, place = under_way
    ended = Trial(values=VALUES, state="done", metrics={"q.fid": 3.0})
    monkeypatch.setattr(background, "run_trial", lambda *_: ended)
    place.over.set()
    trial.end()
    late = TrialInBackground(task, {"width": 9}, place, place.stop)
    place.artifact = late._watched
    late._thread.join(10)
    for step in (10, 20):
        place.score(step, 5.0)
    assert [late.next(GOALS)["q.fid"] for _ in range(3)] == [3.0, 3.0, 3.0]


def test_one_that_fails_is_no_good_to_a_search(under_way, task, recorder):
    trial, place = under_way
    place.over.set()
    assert trial.next(GOALS) == {**GOALS, STEP: 0, SCORE: PENALTY, "done": True}
    (found,) = noted(task)
    assert (found.state, found.why) == ("failed", "student: the end of the test")
    trial.end()
    assert noted(task) == [found]


def test_what_keeps_a_trial_from_running_is_raised(task):
    """Tune then tries it again; a note would say that it failed for good."""

    def broken(job):
        raise OSError("the storage is away")

    trial = TrialInBackground(task, VALUES, broken, lambda: None)
    with pytest.raises(OSError, match="is away"):
        trial.next(GOALS)
    assert noted(task) == []


def test_a_trial_that_makes_no_sense_ends_at_once(task):
    trial = TrialInBackground(task, {"width": -1}, lambda job: Ended(), lambda: None)
    assert trial.next(GOALS)["done"]
    assert noted(task)[0].state == "failed"


def test_scores_of_finished_trainings_are_those_in_the_store(run_job, task, monkeypatch):
    from slimctl.jobs.base.subgraph import trial_specs

    spec = trial_specs(TEMPLATE, VALUES, 0)["student"]
    store = task.store
    inputs = {name: store.load_any(one) for name, one in task.outside.items()}
    scored = spec.model_copy(update={"score_every": 10, "score_samples": 20})
    made = run_job(scored, **inputs)
    assert made.id.endswith(job_key(spec, task.outside))
    trial = TrialInBackground(task, VALUES, lambda job: Ended(), lambda: None)
    points = [trial.next(GOALS) for _ in range(4)]
    assert [point[STEP] for point in points] == [10, 20, 30, 30]
    assert [point["done"] for point in points] == [False, False, False, True]
    assert [step for step, _ in noted(task)[0].scores] == [0, 10, 20, 30]


def test_a_trial_that_did_not_end_well_is_a_bad_one(task):
    assert goal_of(Trial(values={}, state="done", metrics={"q.fid": 2.0}), "q.fid") == 2.0
    for state in ("failed", "filtered", "stopped"):
        assert goal_of(Trial(values={}, state=state, metrics={"q.fid": 2.0}), "q.fid") == PENALTY
    note(task, Trial(values=VALUES, state="done"))
    assert len(noted(task)) == 1
