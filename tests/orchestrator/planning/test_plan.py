import json
from pathlib import Path

import pytest

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph, identities
from slimctl.orchestrator.planning.plan import (
    PlannedJob,
    RunPlan,
    absolute_uri,
    as_event,
    default_tracking,
    make_plan,
    sqlite_file,
    twins,
)
from slimctl.orchestrator.runs.status import JobStatus


def job(name: str, artifact: str, *, action: str = "run", **inputs: str) -> PlannedJob:
    return PlannedJob(
        name=name, kind="load_dataset", fields={}, key=artifact, artifact=artifact, inputs=inputs,
        fingerprint={}, action=action, reason="not in the store",
    )  # fmt: skip


def plan(*jobs: PlannedJob) -> RunPlan:
    return RunPlan(name="digits", storage="/store", tracking=None, jobs=jobs)


@pytest.mark.parametrize(
    ("actions", "idle"),
    [("", True), (["reuse", "reuse"], True), (["reuse", "resume"], False), (["run"], False)],
)
def test_a_plan_is_idle_if_everything_is_there(actions, idle):
    jobs = [job(str(at), str(at), action=action) for at, action in enumerate(actions)]
    assert plan(*jobs).idle == idle


def test_jobs_that_ask_for_the_same_have_the_first_as_twin():
    made = plan(job("a", "x"), job("b", "y"), job("c", "x"), job("d", "x"), job("e", "y"))
    assert twins(made) == {"c": "a", "d": "a", "e": "b"}
    assert twins(plan(job("a", "x"), job("b", "y"))) == {}


def test_the_event_has_what_a_status_needs():
    details = as_event(plan(job("a", "x"), job("b", "y", a="x", c="z")))
    assert JobStatus.model_validate(details["jobs"]["b"]).after == ["a", "c"]
    assert json.loads(json.dumps(details)) == details
    assert (details["name"], details["tracking"]) == ("digits", None)


def test_a_plan_survives_json():
    made = plan(job("a", "x"), job("b", "y", a="x"))
    assert RunPlan.model_validate(made.model_dump(mode="json")) == made


IMAGE = ImageShape(channels=1, size=8)
TEXT = """\
name: digits
seed: 3
jobs:
  data: {kind: load_dataset, source: digits}
  teacher: {kind: analytic_flow, data: data}
  pairs: {kind: generate_pairs, flow: teacher, count: 10}
"""


def pipeline_in(storage: Path, *overrides: str, text: str = TEXT) -> Pipeline:
    return resolve(parse_pipeline(text, "digits.yaml", overrides, str(storage)).pipeline)


def planned(pipeline: Pipeline) -> RunPlan:
    return make_plan(pipeline, Graph.of(pipeline), Store(pipeline.storage))


def by_name(plan: RunPlan) -> dict[str, PlannedJob]:
    return {job.name: job for job in plan.jobs}


def finish(pipeline: Pipeline, *names: str) -> None:
    """Puts a small result in place of what the jobs would make."""
    store = Store(pipeline.storage)
    ids = identities(pipeline)
    handles = {
        "data": Dataset(image=IMAGE, count=1, flip_valid=False),
        "teacher": Flow(source="data", image=IMAGE),
    }
    for name in names:
        folder = store.stage()
        (folder / "data.safetensors").write_bytes(b"bytes")
        manifest = {"kind": "x", "version": 1, "spec": {}, "inputs": {}, "wall_s": 1, "device_s": 1}
        store.commit(ids[name].id, handles[name], folder, manifest)


def test_an_empty_store_runs_everything_in_order(tmp_path):
    plan = planned(pipeline_in(tmp_path))
    assert [(job.name, job.action) for job in plan.jobs] == [
        ("data", "run"), ("teacher", "run"), ("pairs", "run"),
    ]  # fmt: skip
    jobs = by_name(plan)
    assert jobs["data"].reason == "not in the store"
    assert jobs["pairs"].reason == "after its inputs"
    assert jobs["pairs"].inputs == {"teacher": jobs["teacher"].artifact}
    assert jobs["pairs"].fields["seed"] == 3
    assert jobs["pairs"].artifact == f"generate_pairs-{jobs['pairs'].key}-10"
    assert not plan.idle


def test_planning_writes_nothing(tmp_path):
    planned(pipeline_in(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_what_is_there_is_reused(tmp_path):
    pipeline = pipeline_in(tmp_path)
    finish(pipeline, "data", "teacher")
    jobs = by_name(planned(pipeline))
    assert [jobs[name].action for name in ("data", "teacher", "pairs")] == ["reuse", "reuse", "run"]
    assert jobs["pairs"].reason == "not in the store"


def test_a_changed_field_runs_what_depends_on_it(tmp_path):
    finish(pipeline_in(tmp_path), "data", "teacher")
    jobs = by_name(planned(pipeline_in(tmp_path, "jobs.teacher.bandwidth=0.7")))
    assert [jobs[name].action for name in ("data", "teacher", "pairs")] == ["reuse", "run", "run"]
    assert jobs["pairs"].reason == "after its inputs"


def test_a_damaged_result_is_made_again(tmp_path):
    pipeline = pipeline_in(tmp_path)
    finish(pipeline, "data", "teacher")
    artifact = identities(pipeline)["data"].id
    (tmp_path / "artifacts" / artifact / "data.safetensors").write_bytes(b"byt")
    jobs = by_name(planned(pipeline))
    assert (jobs["data"].action, jobs["data"].reason) == (
        "run",
        "its files in the store are damaged",
    )
    assert jobs["teacher"].action == "reuse", "the same key gives the same bytes"


def test_unfinished_work_is_resumed(tmp_path):
    pipeline = pipeline_in(tmp_path)
    Store(str(tmp_path)).work(identities(pipeline)["pairs"].id).write("latest.json", b"{}")
    jobs = by_name(planned(pipeline))
    assert (jobs["pairs"].action, jobs["pairs"].reason) == ("resume", "from its last checkpoint")


def test_everything_there_is_an_idle_plan(tmp_path):
    text = TEXT.split("  pairs:")[0]
    pipeline = pipeline_in(tmp_path, text=text)
    finish(pipeline, "data", "teacher")
    assert planned(pipeline).idle


def test_a_local_storage_is_tracked_in_a_file_of_its_own(tmp_path):
    assert planned(pipeline_in(tmp_path)).tracking == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_remote_storage_without_a_server_is_not_tracked(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "state", lambda *_: "absent")
    store = Store(str(tmp_path))
    store.uri = "s3://bucket/folder"
    monkeypatch.setattr(store, "work", lambda _: store.blobs)
    pipeline = pipeline_in(tmp_path)
    assert make_plan(pipeline, Graph.of(pipeline), store).tracking is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////somewhere/mlflow.db", "sqlite:////somewhere/mlflow.db"),
        ("sqlite:///runs/mlflow.db", "sqlite:///{here}/runs/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_tracking_means_the_same_in_every_folder(given, meant):
    assert absolute_uri(given) == meant.format(here=Path.cwd())


@pytest.mark.parametrize("folder", ["a b", "a%20b", "50%ab", "x#1", "x?mode=ro", "ü+&=;@:"])
def test_a_path_is_never_a_url(tmp_path, folder):
    """As SQLAlchemy, and so MLflow, reads it."""
    from sqlalchemy.engine import make_url

    file = tmp_path / folder / "mlflow.db"
    uri = default_tracking(Store(str(file.parent)))
    assert make_url(uri).database == str(file)
    assert sqlite_file(uri) == file
    made = Path(uri.removeprefix("sqlite:///")).parent
    assert made in (file.parent, Path()), "the folder that MLflow makes"


def test_a_relative_uri_in_a_folder_that_is_none(tmp_path, monkeypatch):
    (tmp_path / "a%20b").mkdir()
    monkeypatch.chdir(tmp_path / "a%20b")
    assert sqlite_file(absolute_uri("sqlite:///my%20runs.db?timeout=3")) == Path(
        tmp_path, "a%20b", "my runs.db"
    )
    assert absolute_uri("sqlite:///x.db?timeout=3").endswith("?timeout=3")


def test_mlflows_own_variables_are_respected_where_the_file_says_nothing(tmp_path, monkeypatch):
    plain = planned(pipeline_in(tmp_path))
    assert plain.experiment == plain.name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "team")
    made = planned(pipeline_in(tmp_path))
    assert (made.tracking, made.experiment) == ("http://127.0.0.1:5000", "team")
    stated = pipeline_in(tmp_path).model_copy(update={"tracking": "http://127.0.0.1:6000"})
    assert planned(stated).tracking == "http://127.0.0.1:6000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:5000")
    with pytest.raises(UserError) as caught:
        planned(pipeline_in(tmp_path))
    assert "secret@" not in str(caught.value)
