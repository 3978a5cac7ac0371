"""The spec of a sweep, and the report on trials that have ended."""

import pytest

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.kinds.sweep import Sweep
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.search.trials import Note, Notes

NETWORK = {"kind": "song_unet", "channels": "${width}", "channel_multipliers": [1], "blocks": 1,
           "attention_resolutions": [], "middle_attention": False}  # fmt: skip
JOBS = {
    "quality": {"kind": "evaluate", "model": "student", "data": "d", "features": "f",
                "samples": 20, "solver": {"kind": "euler", "steps": "${steps}"}},
    "student": {"kind": "train_flow", "data": "d", "network": NETWORK, "steps": 2,
                "batch_size": 4, "workers": 1},
}  # fmt: skip
RANDOM = {"kind": "random", "trials": 3}
SPACE = {"width": {"choice": [4, 8]}, "steps": {"choice": [1, 2]}}
IDS = {"d": "d-1", "f": "f-1"}


def spec(**changes) -> Sweep:
    fields = {"space": SPACE, "jobs": JOBS, "minimize": "quality.fid", "seed": 0}
    return Sweep.model_validate(fields | changes)


def test_it_knows_what_its_trials_name():
    made = spec()
    assert made.outside() == ("d", "f")
    assert Sweep.model_validate(made.model_dump(mode="json")) == made
    choice = {"width": {"choice": [4]}, "steps": {"choice": [1]}, "data": {"choice": ["a", "b"]}}
    jobs = {**JOBS, "student": {**JOBS["student"], "data": "${data}"}}
    assert spec(space=choice, jobs=jobs).outside() == ("d", "f", "a", "b")


def test_jobs_are_named_by_several_variables():
    jobs = {"student": {**JOBS["student"], "data": "ds.width=${width}.seed=${seed}.data"},
            "quality": {**JOBS["quality"], "data": "d"}}  # fmt: skip
    space = {**SPACE, "seed": {"choice": [0, 1]}}
    assert set(spec(space=space, jobs=jobs).outside()) == {"d", "f"} | {
        f"ds.width={width}.seed={seed}.data" for width in (4, 8) for seed in (0, 1)
    }
    with pytest.raises(ValueError, match="names jobs by 'seed', which is a range"):
        spec(space={**SPACE, "seed": {"randint": [0, 1]}}, jobs=jobs, search=RANDOM)


def test_its_key_is_that_of_earlier_versions():
    """What they made is there still; the names that they saved with a run are found again.

    The versions of the trials' kinds are in it: evaluate is version 3.
    """
    assert job_key(spec(), IDS) == "54673593e17e25990eb831e2"
    saved = {**spec().model_dump(mode="json"), "outside": ["d", "f"], "inputs": ["d", "f"]}
    assert Sweep.model_validate(saved) == spec()


def test_what_its_jobs_read_from_outside_is_in_its_key(tmp_path):
    made = spec(jobs={**JOBS, "quality": {**JOBS["quality"], "reference": str(tmp_path / "r.npz")}})
    keys = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "r.npz").write_bytes(content)
        keys.append(job_key(made, IDS))
    assert keys[0] == keys[2] != keys[1]
    assert made.fingerprint()["student.version"] == str(TrainFlow.version)


TRIALS = (
    Trial(values={"width": 4, "steps": 1}, state="done", metrics={"quality.fid": 3.0,
                                                                  "quality.parameters": 10.0}),
    Trial(values={"width": 4, "steps": 2}, state="failed", why="quality: it broke"),
    Trial(values={"width": 8, "steps": 1}, state="done", metrics={"quality.fid": 2.0,
                                                                  "quality.parameters": 20.0}),
    Trial(values={"width": 8, "steps": 2}, state="filtered", why="quality.parameters is 30"),
)  # fmt: skip


@pytest.fixture
def ended(store):
    """`ended(spec, trials)` notes how trials of a sweep ended."""

    def note(made: Sweep, trials: tuple[Trial, ...]) -> Sweep:
        notes = Notes(store.work(artifact_id(made, job_key(made, {}))))
        for number, trial in reversed([*enumerate(trials)]):
            excess = {30: 0.5, 10: 0.2}.get(trial.values["width"] * trial.values["steps"], 0.9)
            notes.write(
                Note(number=number, values=trial.values, after=0, trial=trial, excess=excess)
            )
        return made

    return note


def test_the_best_trial_is_chosen(run_job, ended, recorder):
    report = run_job(ended(spec(jobs=ALONE), TRIALS))
    assert report.trials == TRIALS
    assert (report.chosen, report.front) == (2, (2,))
    assert [one["message"] for one in recorder.said("warning")] == [
        "the trial width 4, steps 2 failed: quality: it broke"
    ]
    limits = {"quality.parameters": {"max": 15}}
    assert run_job(ended(spec(jobs=ALONE, subject_to=limits), TRIALS)).chosen == 0
    several = ["quality.fid", "quality.parameters"]
    report = run_job(ended(spec(jobs=ALONE, minimize=None, pareto=several), TRIALS))
    assert (report.chosen, report.front) == (None, (0, 2))


ALONE = {**JOBS, "d": {"kind": "load_dataset", "source": "digits"},
         "f": {"kind": "train_features", "data": "d", "steps": 1}}  # fmt: skip


def test_without_a_finished_trial_there_is_no_report(attempt, ended):
    outcome = attempt(ended(spec(jobs=ALONE), TRIALS[1:2]))
    assert outcome.failure == "UserError"
    assert outcome.what == "no trial was finished; the first: quality: it broke"
    out = tuple(one.model_copy(update={"state": "filtered", "why": "too large"}) for one in TRIALS)
    outcome = attempt(ended(spec(jobs=ALONE, subject_to={"quality.macs": {"max": 1}}), out))
    assert outcome.what == ("no size meets the limits; the nearest is width 4, steps 1: too large")


WATCHED = {
    "kind": "anneal_reflow", "pairs": "p", "data": "d", "network": {"kind": "mlp"}, "steps": 30,
    "score_every": 10,
}  # fmt: skip


@pytest.mark.parametrize(
    ("watched", "scheduler", "field", "words"),
    [
        ({}, {"watch": "nobody"}, "scheduler.watch", "no job of the trials is 'nobody'"),
        ({}, {"watch": "quality"}, "scheduler.watch", ".evaluate. takes no scores"),
        ({"data": None}, {}, "scheduler.watch", "takes no scores: it has no data"),
        ({"score_every": 50}, {}, "scheduler.grace_period", "its first score after 50 steps"),
    ],
)
def test_what_cannot_be_watched_is_refused(watched, scheduler, field, words):
    jobs = {**JOBS, "watched": WATCHED | watched}
    asha = {"kind": "asha", "watch": "watched", "grace_period": 10}
    assert spec(jobs={**JOBS, "watched": WATCHED}, scheduler=asha).scheduler
    with pytest.raises(ValueError, match=words) as caught:
        spec(jobs=jobs, scheduler=asha | scheduler)
    assert caught.value.errors()[0]["ctx"]["error"].field == field


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"minimize": "quality.fd"}, "minimize", "which has no 'fd'"),
        ({"minimize": "qualty.fid"}, "minimize", "there is no job 'qualty'"),
        ({"minimize": None}, "minimize", "say what to look for"),
        ({"subject_to": {"student.fid": {"max": 1}}}, "subject_to", "which has no 'fid'"),
        ({"space": {**SPACE, "steps": {"uniform": [1, 2]}}}, "space.steps", "a grid needs values"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, field, words):
    with pytest.raises(ValueError, match=words) as caught:
        spec(**changes)
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, FieldError)
    assert error.field == field
