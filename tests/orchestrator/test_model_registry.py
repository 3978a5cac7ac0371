"""What MLflow is told of models and trials."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_tracking import REPORT, Tracked

from slimctl.jobs.base.artifacts import SweepReport, Trial
from slimctl.orchestrator import tracking
from slimctl.orchestrator.plan import RunPlan, as_event
from slimctl.orchestrator.tracking import PARENT_TAG, aliases, measured, register


def report(fid, parameters, nfe=1.0, model="m"):
    changes = {"fid": fid, "parameters": parameters, "nfe": nfe, "model": model}
    return REPORT.model_copy(update=changes)


@pytest.mark.parametrize(
    ("reports", "champion", "smallest"),
    [
        ({"a": report(5.0, 100)}, "a", "a"),
        ({"a": report(5.0, 100), "b": report(9.0, 50)}, "a", "b"),
        ({"a": report(5.0, 100), "b": report(9.0, 200)}, "a", "a"),
        ({"a": report(5.0, 100), "teacher": report(1.0, 900, nfe=50.0)}, "a", "a"),
        ({"a": report(5.0, 100), "b": report(6.0, 100)}, "a", "a"),
        ({"t": report(5.0, 100, nfe=50.0)}, "t", "t"),
    ],
)
def test_which_models_are_named(reports, champion, smallest):
    named = aliases(measured(reports))
    assert {name: one.by for name, one in named.items()} == {
        "champion": champion, "smallest": smallest,
    }  # fmt: skip


def test_nothing_is_named_where_nothing_compares():
    assert aliases([]) == {}
    other = report(2.0, 10).model_copy(update={"features": "another", "samples": 100})
    assert aliases(measured({"a": report(40.0, 100), "b": other})) == {}


@pytest.fixture
def tracked(tmp_path: Path, put_database) -> Tracked:
    """A run with a student, its measurement, and a sweep with three trials."""
    put_database(tmp_path / "store")
    made = Tracked(tmp_path / "store")
    kinds = {"quality": "evaluate", "sizes": "sweep"}
    plan: RunPlan = made.plan.model_copy(
        update={"jobs": tuple(made.planned(name, kind) for name, kind in kinds.items())}
    )
    made.plan = plan
    made.log.add("run_started", **as_event(plan))
    made.put("evaluate-k", report(5.0, 100, model="distill-big"))
    made.put("evaluate-t", report(8.0, 40, model="distill-small"))
    trials = (
        Trial(
            values={"width": 8}, state="done", artifacts={"quality": "evaluate-t"},
            metrics={"quality.fid": 8.0, "quality.parameters": 40.0},
        ),
        Trial(values={"width": 16}, state="failed", why="it broke"),
        Trial(values={"width": 99}, state="filtered", why="too large"),
        Trial(values={"width": 4}, state="stopped", scores=((0, 9.0), (50, 4.0)), why="behind"),
    )  # fmt: skip
    made.put(
        "sweep-k", SweepReport(objectives=("quality.fid",), trials=trials, chosen=0, front=(0,))
    )
    for name in kinds:
        made.log.add("job_started", name, attempt=1)
        made.log.add("job_done", name, wall_s=1.0, device_s=1.0)
    made.log.add("run_ended", state="done")
    return made


def test_trials_are_runs_under_their_sweep(tracked):
    assert tracked.track() == ""
    runs = tracked.runs()
    trial = runs["sizes.width=8"]
    assert trial.data.tags[PARENT_TAG] == runs["sizes"].info.run_id
    assert trial.data.params == {"width": "8"}
    assert trial.data.metrics == {"fid": 8.0, "parameters": 40.0}
    states = {name: runs[f"sizes.width={name}"].info.status for name in (8, 16, 99, 4)}
    assert states == {8: "FINISHED", 16: "FAILED", 99: "KILLED", 4: "KILLED"}
    curve = tracked.client.get_metric_history(runs["sizes.width=4"].info.run_id, "score")
    assert [(point.step, point.value) for point in curve] == [(0, 9.0), (50, 4.0)]
    assert runs["sizes.width=16"].data.tags["slimctl.error"] == "it broke"
    assert tracked.track() == ""
    assert len(tracked.runs()) == len(runs)


def test_models_are_pointers_with_aliases(tracked):
    assert tracked.track() == ""
    client: MlflowClient = tracked.client
    champion = client.get_model_version_by_alias("digits", "champion")
    smallest = client.get_model_version_by_alias("digits", "smallest")
    assert champion.source == "slimctl://local/artifacts/distill-big"
    assert champion.tags["slimctl.storage"] == tracked.store.uri
    assert smallest.source.endswith("/artifacts/distill-small")
    assert champion.tags["fid"] == "5.0"
    assert champion.run_id == tracked.runs()[""].info.run_id
    tracked.log.add("run_ended", state="done")
    assert tracked.track() == ""
    assert len(client.search_model_versions("name = 'digits'")) == 2


def test_a_worse_run_moves_no_alias(tracked):
    assert tracked.track() == ""
    client: MlflowClient = tracked.client
    worse = {"late": report(7.0, 100, model="distill-late")}
    register(client, "digits", tracked.store.uri, worse, tracked.runs()[""].info.run_id)
    champion = client.get_model_version_by_alias("digits", "champion")
    assert champion.tags["slimctl.artifact"] == "distill-big"
    assert len(client.search_model_versions("name = 'digits'")) == 2
    better = {"late": report(4.0, 100, model="distill-late")}
    register(client, "digits", tracked.store.uri, better, tracked.runs()[""].info.run_id)
    champion = client.get_model_version_by_alias("digits", "champion")
    assert champion.tags["slimctl.artifact"] == "distill-late"


def test_a_trial_that_was_not_written_whole_is_written_again(tracked, monkeypatch):
    real, calls = MlflowClient.log_batch, []

    def broken(self, *arguments, **options):
        calls.append(1)
        if any(param.key == "width" for param in options.get("params", ())) and len(calls) < 20:
            calls.extend([1] * 20)
            raise ConnectionError("gone")
        return real(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", broken)
    monkeypatch.setattr(tracking, "RETRY_S", 0.05)
    tracked.track()
    assert tracked.track() == ""
    trial = tracked.runs()["sizes.width=8"]
    assert (trial.info.status, trial.data.params) == ("FINISHED", {"width": "8"})
