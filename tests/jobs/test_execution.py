import pickle
from dataclasses import replace

import numpy as np
import pytest

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import SilentReporter
from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, UserError, WorkLost
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.execution import JobRequest, execute
from slimctl.jobs.kinds.analytic_flow import AnalyticFlow
from slimctl.jobs.kinds.load_dataset import LoadDataset

ARTIFACT = "load_dataset-ab"


@pytest.fixture
def request_for(store):
    def make(kind="load_dataset", fields=None, artifact=ARTIFACT, inputs=None, **changes):
        request = JobRequest(
            job="data",
            kind=kind,
            fields=fields or {"source": "digits", "max_images": 20},
            artifact_id=artifact,
            inputs=inputs or {},
            storage=store.uri,
            cluster=Cluster(cpus=1),
            reporter=SilentReporter(),
        )
        return replace(request, **changes)

    return make


def raising(error):
    def run(spec, context):
        context.work.write("latest.json", b"half")
        (context.folder / "half").write_bytes(b"x")
        raise error

    return run


def staged(store):
    return list((store.blobs.root / "tmp").iterdir())


def test_a_job_is_done_and_its_artifact_tells_how(store, request_for):
    outcome = execute(request_for(), threads=3)
    assert (outcome.failure, outcome.artifact_id) == (None, ARTIFACT)
    assert outcome.wall_s >= outcome.device_s > 0
    manifest = store.manifest(ARTIFACT)
    assert (manifest.kind, manifest.version, manifest.type) == ("load_dataset", 2, "Dataset")
    assert manifest.spec == LoadDataset(source="digits", max_images=20).model_dump(mode="json")
    assert manifest.engine["device"] == "cpu"
    assert manifest.engine["threads"] == 3
    assert manifest.engine["host_cpus"] >= 1
    assert (manifest.wall_s, manifest.device_s) == (outcome.device_s, outcome.device_s)
    assert store.load(ARTIFACT, Dataset).count == 20
    assert staged(store) == []


def test_a_job_that_is_done_is_not_done_again(store, request_for, monkeypatch):
    first = execute(request_for())
    monkeypatch.setattr(LoadDataset, "run", raising(AssertionError("done again")))
    second = execute(request_for())
    assert second.failure is None
    assert second.device_s == pytest.approx(first.device_s)


@pytest.mark.parametrize("damage", ["file", "manifest"])
def test_a_damaged_artifact_is_made_again(store, request_for, damage):
    execute(request_for())
    name = "data.safetensors" if damage == "file" else "artifact.json"
    path = store.blobs.local(f"artifacts/{ARTIFACT}/{name}")
    path.write_bytes(path.read_bytes()[:-1])
    assert store.state(ARTIFACT) == "damaged"
    assert execute(request_for()).failure is None
    assert store.state(ARTIFACT) == "done"


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (UserError("data.npz:3", "is bad", "repair it"), False),
        (DamagedArtifact("x", "is bad"), False),
        (JobFailed("job", "is bad"), False),
        (WorkLost("node", "is gone"), True),
    ],
)
def test_known_errors_keep_their_words(store, request_for, monkeypatch, error, retry):
    monkeypatch.setattr(LoadDataset, "run", raising(error))
    outcome = execute(request_for())
    assert outcome.failure == type(error).__name__
    assert (outcome.where, outcome.what, outcome.fix) == error.args
    assert (outcome.trace, outcome.retry) == ("", retry)
    assert store.state(ARTIFACT) == "absent"
    assert store.work(ARTIFACT).read("latest.json") == b"half"  # for the next attempt
    assert staged(store) == []
    assert pickle.loads(pickle.dumps(outcome)) == outcome


def test_a_field_that_contradicts_an_input_is_the_users(request_for, monkeypatch):
    monkeypatch.setattr(LoadDataset, "run", raising(FieldError("flip", "is not valid", "drop it")))
    outcome = execute(request_for())
    assert (outcome.failure, outcome.where) == ("UserError", "job 'data', flip")
    assert (outcome.what, outcome.fix, outcome.retry) == ("is not valid", "drop it", False)


@pytest.mark.parametrize(
    ("error", "retry"),
    [(ValueError("odd"), False), (OSError("disk"), True), (ConnectionError("net"), True)],
)
def test_other_errors_keep_their_trace(request_for, monkeypatch, error, retry):
    monkeypatch.setattr(LoadDataset, "run", raising(error))
    outcome = execute(request_for())
    assert outcome.failure == type(error).__name__
    assert outcome.what == f"{type(error).__name__}: {error}"
    assert "in run" in outcome.trace
    assert outcome.retry == retry


def test_the_next_attempt_finds_the_work_of_the_last(store, request_for, monkeypatch):
    monkeypatch.setattr(LoadDataset, "run", raising(WorkLost("node", "is gone")))
    execute(request_for())
    monkeypatch.undo()
    run = LoadDataset.run
    seen = []

    def looking(spec, context):
        seen.append(context.work.read("latest.json"))
        return run(spec, context)

    monkeypatch.setattr(LoadDataset, "run", looking)
    assert execute(request_for()).failure is None
    assert seen == [b"half"]
    assert store.work(ARTIFACT).names() == []


def test_inputs_are_loaded_by_the_names_of_their_jobs(store, request_for):
    execute(request_for())
    fields = {"data": "images", "bandwidth": 0.5}
    request = request_for("analytic_flow", fields, "analytic_flow-1", {"images": ARTIFACT})
    assert execute(request).failure is None
    flow = store.load_any("analytic_flow-1")
    assert flow.dataset.id == ARTIFACT
    assert store.manifest(flow.id).inputs == {"images": ARTIFACT}
    assert store.manifest(flow.id).spec == AnalyticFlow(data="images", bandwidth=0.5).model_dump(
        mode="json"
    )


@pytest.mark.parametrize("damage", ["absent", "torn"])
def test_an_input_that_is_not_whole(store, request_for, damage):
    if damage == "torn":
        execute(request_for())
        store.blobs.write(f"artifacts/{ARTIFACT}/artifact.json", b"{")
    request = request_for("analytic_flow", {"data": "d"}, "analytic_flow-1", {"d": ARTIFACT})
    outcome = execute(request)
    assert (outcome.failure, outcome.where) == ("DamagedArtifact", ARTIFACT)
    assert not outcome.retry


def test_files_that_changed_since_the_plan_are_refused(store, request_for, tmp_path):
    source = tmp_path / "data.npz"
    np.savez(source, images=np.zeros((3, 4, 4, 1), np.uint8))
    spec = LoadDataset(source=str(source))
    request = request_for(fields=spec.model_dump(), fingerprint=spec.fingerprint())
    assert execute(request).failure is None
    np.savez(source, images=np.ones((3, 4, 4, 1), np.uint8))
    outcome = execute(replace(request, artifact_id="load_dataset-cd"))
    assert outcome.failure == "UserError"
    assert "changed after the run was planned" in outcome.what
    source.unlink()
    outcome = execute(replace(request, artifact_id="load_dataset-cd"))
    assert (outcome.failure, outcome.retry) == ("UserError", False)


def test_notes_and_device_time_of_the_job_are_kept(store, request_for, monkeypatch):
    run = LoadDataset.run

    def telling(spec, context):
        context.warn("careful")
        context.engine |= {"device": "abacus", "beads": 10}
        context.device_s = 77.0
        return run(spec, context)

    monkeypatch.setattr(LoadDataset, "run", telling)
    assert execute(request_for()).device_s == 77.0
    manifest = store.manifest(ARTIFACT)
    assert (manifest.notes, manifest.device_s) == (("careful",), 77.0)
    assert (manifest.engine["device"], manifest.engine["beads"]) == ("abacus", 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "load_data"},
        {"fields": {"source": "digits", "sise": 3}},
        {"storage": "nonsense://x"},
        {"inputs": {}, "kind": "analytic_flow", "fields": {"data": "d"}},
    ],
)
def test_nothing_raises(request_for, changes):
    outcome = execute(request_for(**changes))
    assert outcome.failure
    assert not outcome.retry


def test_requests_travel(request_for):
    request = request_for()
    assert pickle.loads(pickle.dumps(request)).fields == request.fields


def test_what_a_kind_expects_is_checked_against_its_inputs_before_it_runs(
    store, request_for, monkeypatch
):
    execute(request_for(fields={"source": "digits", "max_images": 20, "labels": False}))
    monkeypatch.setattr(AnalyticFlow, "run", raising(AssertionError("it ran")))
    fields = {"data": "data", "conditional": True}
    outcome = execute(request_for("analytic_flow", fields, "analytic_flow-ab", {"data": ARTIFACT}))
    assert (outcome.failure, outcome.where) == ("UserError", "job 'data', conditional")
    assert outcome.what == "'data' has no labels, so the flow cannot be conditional"
