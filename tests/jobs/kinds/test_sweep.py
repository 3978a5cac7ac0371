from dataclasses import replace
from types import SimpleNamespace

import pytest

from slimctl.jobs.base.artifacts import QualityReport, SweepReport
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.evaluation import quality
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.sweep import Sweep
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.search import tune
from slimctl.jobs.search.trial import note, run_trial
from slimctl.models.spec import ImageShape

PLAIN = ImageShape(channels=1, size=4)
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}
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
FACTS = {"inputs.0": Facts(PLAIN, 20, made="Dataset"), "inputs.1": Facts(PLAIN, made="FeatureNet")}


def spec(**changes) -> Sweep:
    fields = {"space": SPACE, "jobs": JOBS, "minimize": "quality.fid", "seed": 0}
    return Sweep.model_validate(fields | changes)


@pytest.fixture
def trials_here(monkeypatch) -> list[dict]:
    """Runs what Tune would, one trial after another; the list gets the values of each."""
    tried: list[dict] = []

    def fit(task, values, goals, space, options):
        for number in space["number"]["grid_search"]:
            chosen = values({"number": number})
            tried.append(dict(chosen))
            note(task, run_trial(task, chosen, lambda job: task.runner.run(job, "cpu", 1)))

    monkeypatch.setattr(tune, "_fit", fit)
    return tried


@pytest.fixture
def inputs(run_job, make_dataset, monkeypatch):
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    data = make_dataset(count=20, classes=2)
    training = TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0)
    return {"inputs.0": data, "inputs.1": run_job(training, data=data)}


def test_it_needs_the_jobs_that_its_trials_name():
    made = spec()
    assert made.outside == ("d", "f")
    assert [ref.job for ref in made.inputs] == ["d", "f"]
    assert Sweep.model_validate(made.model_dump(mode="json")) == made
    choice = {"width": {"choice": [4]}, "steps": {"choice": [1]}, "data": {"choice": ["a", "b"]}}
    jobs = {**JOBS, "student": {**JOBS["student"], "data": "${data}"}}
    assert spec(space=choice, jobs=jobs).outside == ("d", "f", "a", "b")


def test_jobs_are_named_by_several_variables():
    jobs = {"student": {**JOBS["student"], "data": "ds.width=${width}.seed=${seed}.data"},
            "quality": {**JOBS["quality"], "data": "d"}}  # fmt: skip
    space = {**SPACE, "seed": {"choice": [0, 1]}}
    assert set(spec(space=space, jobs=jobs).outside) == {"d", "f"} | {
        f"ds.width={width}.seed={seed}.data" for width in (4, 8) for seed in (0, 1)
    }
    with pytest.raises(ValueError, match="names jobs by 'seed', which is a range"):
        spec(space={**SPACE, "seed": {"randint": [0, 1]}}, jobs=jobs, search=RANDOM)


def test_names_are_found_again_when_the_jobs_change():
    saved = spec().model_dump(mode="json")
    saved["inputs"] = ["group.seed=1.d", "f"]  # what the pipeline made of the names
    assert Sweep.model_validate(saved).inputs[0].job == "group.seed=1.d"
    saved["jobs"]["student"]["data"] = "other"
    assert Sweep.model_validate(saved).outside == ("d", "f", "other")
    assert Sweep.model_validate(saved).inputs[2].job == "other"


def test_a_name_for_several_jobs_is_refused():
    with pytest.raises(FieldError, match="means several jobs"):
        spec().expect({**FACTS, "inputs.2": Facts()})


def test_every_trial_runs_and_the_best_is_chosen(run_job, store, inputs, trials_here):
    report: SweepReport = run_job(spec(), **inputs)
    assert trials_here == [{"width": w, "steps": s} for w in (4, 8) for s in (1, 2)]
    assert {trial.state for trial in report.trials} == {"done"}
    fids = [trial.metrics["quality.fid"] for trial in report.trials]
    assert fids[report.chosen] == min(fids)
    assert report.front == (report.chosen,)
    first, second = report.trials[:2]
    assert first.artifacts["student"] == second.artifacts["student"]  # made once for both
    assert store.state(second.artifacts["quality"]) == "done"


def test_what_the_store_has_costs_nothing(run_job, inputs, trials_here, recorder):
    run_job(spec(), **inputs)
    made = len(recorder.events)
    again = run_job(spec(minimize=None, pareto=["quality.fid", "quality.latency_ms"]), **inputs)
    assert len(recorder.events) == made
    assert again.chosen is None
    assert again.front


def test_sizes_beyond_the_limits_are_not_trained(run_job, inputs, trials_here):
    report = run_job(spec(subject_to={"quality.parameters": {"max": 5000}}), **inputs)
    assert [trial.state for trial in report.trials] == ["done", "done", "filtered", "filtered"]
    assert report.trials[2].artifacts == {}
    assert "quality.parameters is" in report.trials[2].why


def test_limits_that_nothing_meets_say_how_close_it_comes(attempt, inputs, trials_here):
    outcome = attempt(spec(subject_to={"quality.parameters": {"max": 10}}), **inputs)
    assert outcome.failure == "UserError"
    assert "the nearest is width 4, steps 1: quality.parameters is" in outcome.what
    assert trials_here == []


def test_values_that_do_not_go_together_are_left_to_their_trial():
    """A range is checked at its ends; what lies between them is found out when it is tried."""
    jobs = {**JOBS, "student": {**JOBS["student"], "batch_size": "${batch}", "workers": 2}}
    limits = {"quality.parameters": {"max": 10}}
    space = {"width": {"choice": [4]}, "steps": {"choice": [1]}, "batch": {"randint": [2, 4]}}
    made = spec(jobs=jobs, space=space, search=RANDOM, subject_to=limits)
    task = SimpleNamespace(
        job="sizes", cluster=Cluster(cpus=1), limits=made.subject_to, handles=dict
    )
    made._check_sizes(task, [{"width": 4, "steps": 1, "batch": 3}])


def test_what_its_jobs_read_from_outside_is_in_its_key(tmp_path):
    made = spec(jobs={**JOBS, "quality": {**JOBS["quality"], "reference": str(tmp_path / "r.npz")}})
    keys = []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "r.npz").write_bytes(content)
        keys.append(job_key(made, {"d": "d-1", "f": "f-1"}))
    assert keys[0] == keys[2] != keys[1]
    assert made.fingerprint()["student.version"] == str(TrainFlow.version)
    (tmp_path / "r.npz").unlink()
    with pytest.raises(FieldError) as caught:
        made.preflight()
    assert [one.field for one in caught.value.each] == ["jobs.quality.reference"]


def test_what_is_missing_is_named_beside_what_is_wrong():
    student = {key: value for key, value in JOBS["student"].items() if key != "steps"}
    made = spec(jobs={**JOBS, "student": {**student, "learning_rate": 7, "stepz": 2}})
    with pytest.raises(FieldError) as caught:
        made.expect({"inputs.0": FACTS["inputs.0"], "inputs.1": FACTS["inputs.1"]})
    told = {one.field: (one.what.partition(": ")[2], one.fix) for one in caught.value.each}
    assert told["jobs.student.steps"] == ("'steps' is missing", "")
    assert told["jobs.student.stepz"] == ("there is no 'stepz'", "did you mean 'steps'?")
    assert told["jobs.student.learning_rate"][0].endswith("not 7")
    assert len(told) == 3


def test_a_trial_that_fails_does_not_stop_the_others(
    run_job, inputs, trials_here, recorder, monkeypatch
):
    measure = Evaluate.run

    def run(spec, context) -> QualityReport:
        if spec.samples == 12:
            raise UserError("", "12 samples bring bad luck")
        return measure(spec, context)

    monkeypatch.setattr(Evaluate, "run", run)
    jobs = {**JOBS, "quality": {**JOBS["quality"], "samples": "${samples}"}}
    space = {**SPACE, "samples": {"choice": [20, 12]}}
    report = run_job(spec(jobs=jobs, space=space), **inputs)
    assert [trial.state for trial in report.trials] == ["done", "failed"] * 4
    assert report.trials[1].why.startswith("quality: 12 samples bring bad luck")
    assert "student" in report.trials[1].artifacts
    assert any("failed" in one["message"] for one in recorder.said("warning"))


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
    assert spec(jobs={**JOBS, "watched": WATCHED}, scheduler=asha)._longest() == 30
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
        ({"space": {**SPACE, "more": {"choice": [1]}}}, "space.more", "no job uses more"),
        ({"space": {"width": {"choice": [4]}}}, "jobs", "the space has no 'steps'"),
        ({"space": {**SPACE, "steps": {"uniform": [1, 2]}}}, "space.steps", "a grid needs values"),
        ({"jobs": {**JOBS, "x": {"kind": "nope"}}}, "jobs", "there is no job kind 'nope'"),
        ({"jobs": {**JOBS, "x": 5}}, "jobs.x", "must be a mapping with 'kind'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, field, words):
    with pytest.raises(ValueError, match=words) as caught:
        spec(**changes)
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, FieldError)
    assert error.field == field


@pytest.mark.parametrize(
    ("job", "change", "field", "words"),
    [
        ("student", {"steps": -1}, "jobs.student.steps", "greater than or equal to 1"),
        ("student", {"colour": "red"}, "jobs.student.colour", "there is no 'colour'"),
        ("student", {"data": "f"}, "jobs.student.data", "but 'f' makes a FeatureNet"),
        ("quality", {"model": "d"}, "jobs.quality.model", "but 'd' makes a Dataset"),
        ("quality", {"solver": None, "seed": "${steps}"}, "jobs.quality.solver", "needs a solver"),
        ("student", {"data": "quality"}, "jobs", "need each other in a circle"),
    ],
)  # fmt: skip
def test_trials_are_checked_before_anything_runs(job, change, field, words):
    made = spec(jobs={**JOBS, job: {**JOBS[job], **change}}, space=SPACE)
    facts = {"d": FACTS["inputs.0"], "f": FACTS["inputs.1"]}
    inputs = {f"inputs.{at}": facts[name] for at, name in enumerate(made.outside)}
    with pytest.raises(FieldError, match=words) as caught:
        made.expect(inputs)
    assert caught.value.field == field


def test_all_that_is_wrong_with_the_trials_is_told_once():
    jobs = {
        "student": {**JOBS["student"], "data": "f", "steps": "${steps}"},
        "quality": {**JOBS["quality"], "samples": -1, "draws": 0, "seed": "${width}"},
    }
    space = {**SPACE, "steps": {"choice": [-1, 2]}}
    made = spec(jobs=jobs, space=space)
    facts = {"d": FACTS["inputs.0"], "f": FACTS["inputs.1"]}
    with pytest.raises(FieldError) as caught:
        made.expect({f"inputs.{at}": facts[name] for at, name in enumerate(made.outside)})
    told = {error.field: error.what for error in caught.value.each}
    assert told.keys() == {
        "jobs.student.steps", "jobs.quality.samples", "jobs.quality.draws",
        "jobs.quality.solver.steps", "jobs.student.data",
    }  # fmt: skip
    assert told["jobs.student.steps"].startswith("with width 4, steps -1: ")
    assert len(caught.value.each) == 5, "not once for each trial"


def test_what_is_doubtful_about_trials_is_told_before_they_run():
    dimensions = {"inputs.1": replace(FACTS["inputs.1"], dimensions=512)}
    found = spec().doubts({**FACTS, **dimensions})
    assert [doubt.field for doubt in found] == ["jobs.quality.data", "jobs.quality.samples"]
    assert all("512 features" in doubt.what for doubt in found)
