"""What MLflow is said of models and trials."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from test_tracking import REPORT, Tracked

from slimctl.jobs.base.artifacts import SweepReport, Trial
from slimctl.orchestrator.planning.plan import RunPlan, as_event
from slimctl.orchestrator.running.tracking import (
    PARENT_TAG,
    aliases,
    measured,
    register,
    summary,
)


def report(fid, parameters, nfe=1.0, model="m"):
    """A measured model; every evaluation takes 2 ms."""
    changes = {"fid": fid, "parameters": parameters, "nfe": nfe, "model": model}
    changes |= {"latency_ms": 2 * nfe}
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
        ({"a": report(5.0, 100), "ten": report(4.9, 100, nfe=10.0)}, "a", "a"),
        (  # two evaluations of a small network, faster than the one of a large one
            {
                "large": report(5.0, 900).model_copy(update={"latency_ms": 8.0}),
                "small": report(4.0, 100, nfe=2.0),
            },
            "small",
            "small",
        ),
    ],
)
def test_which_models_are_named(reports, champion, smallest):
    named = aliases(measured(reports))
    assert {name: one.by for name, one in named.items()} == {
        "champion": champion, "smallest": smallest,
    }  # fmt: skip


def test_a_run_is_summarised_by_its_best_and_its_smallest_student():
    flow = {"model_type": "Flow", "model": "teacher"}
    teacher = report(1.0, 900, nfe=50.0).model_copy(update=flow)
    reports = {
        "teacher": teacher,
        "worse": teacher.model_copy(update={"fid": 200.0, "nfe": 1.0, "latency_ms": 2.0}),
        "big": report(5.0, 300, model="big"),
        "small": report(9.0, 90, model="small"),
    }
    metrics, tags = summary(reports)
    assert tags == {"slimctl.best": "big", "slimctl.smallest": "small"}
    assert (metrics["best_fid"], metrics["smallest_fid"]) == (5.0, 9.0)
    assert (metrics["best_compression"], metrics["smallest_compression"]) == (3.0, 10.0)
    assert metrics["best_speedup"] == 50.0  # 100 ms of fifty evaluations against 2 ms
    assert metrics["smallest_nfe"] == 1.0
    elsewhere = {**reports, "teacher": teacher.model_copy(update={"device": "cuda"})}
    assert summary(elsewhere)[0]["best_speedup"] == 50.0  # by MACs x NFE
    assert summary({}) == ({}, {})


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
    done = Trial(values={"width": 8}, state="done", metrics={"quality.fid": 8.0})
    made.put(
        "sweep-k", SweepReport(objectives=("quality.fid",), trials=(done,), chosen=0, front=(0,))
    )
    made.log.add("job_started", "quality", attempt=1)
    made.log.add("job_done", "quality", wall_s=1.0, device_s=1.0)
    made.log.add("job_started", "sizes", attempt=1)
    for width, artifact in ((8, "evaluate-t"), (16, "evaluate-f"), (4, "anneal_reflow-s")):
        job = made.planned(f"sizes.width={width}.quality", "evaluate").model_copy(
            update={"artifact": artifact, "search": "sizes", "values": {"width": width}}
        )
        made.log.add("jobs_added", "sizes", jobs={job.name: job.model_dump()})
        made.log.add("job_started", job.name, attempt=1)
    made.log.add("progress", "sizes.width=4.quality", done=50, total=90, metrics={"score": 4.0})
    made.log.add("job_done", "sizes.width=8.quality", wall_s=1.0, device_s=1.0)
    made.log.add("job_failed", "sizes.width=16.quality", failure="UserError", what="it broke")
    made.log.add("job_stopped", "sizes.width=4.quality", what="behind")
    made.log.add("job_done", "sizes", wall_s=1.0, device_s=1.0)
    made.log.add("run_ended", state="done")
    return made


def test_jobs_of_trials_are_runs_under_their_sweep(tracked):
    assert tracked.track() == ""
    runs = tracked.runs()
    done, failed, stopped = (runs[f"sizes.width={width}.quality"] for width in (8, 16, 4))
    assert {run.data.tags[PARENT_TAG] for run in (done, failed, stopped)} == {
        runs["sizes"].info.run_id
    }
    assert done.data.params["width"] == "8"
    assert done.data.metrics["fid"] == 8.0
    assert done.data.tags["slimctl.chosen"] == "true"
    assert [run.info.status for run in (done, failed, stopped)] == ["FINISHED", "FAILED", "KILLED"]
    curve = tracked.client.get_metric_history(stopped.info.run_id, "train/score")
    assert [(point.step, point.value) for point in curve] == [(50, 4.0)]
    assert failed.data.tags["slimctl.error"] == "it broke"
    assert tracked.track() == ""
    assert len(tracked.runs()) == len(runs)


def test_jobs_of_trials_that_were_made_before_are_runs_too(tracked):
    """In the plan they come before their sweep."""
    tracked.log.add("job_reused", "sizes.width=8.quality")
    plan = tracked.plan
    trial = tracked.planned("sizes.width=8.quality", "evaluate").model_copy(
        update={"artifact": "evaluate-t", "search": "sizes", "values": {"width": 8}}
    )
    tracked.plan = plan.model_copy(update={"jobs": (trial, *plan.jobs)})
    assert tracked.track() == ""
    runs = tracked.runs()
    assert runs[trial.name].data.tags[PARENT_TAG] == runs["sizes"].info.run_id


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
