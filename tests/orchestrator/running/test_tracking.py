import json
import math
import threading
import time
from pathlib import Path

import pytest
from builders import RUN, put, quality
from mlflow import MlflowClient
from mlflow.entities import Run

from slimctl.jobs.base.artifacts import Dataset, QualityReport
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.pipeline.operations import Price
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan, as_event
from slimctl.orchestrator.running import tracking
from slimctl.orchestrator.running.tracking import (
    EVENTS_TAG,
    JOB_TAG,
    PARENT_TAG,
    RUN_TAG,
    Tracker,
    flatten,
)
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import run_lease, save_pipeline

REPORT = quality(fid=12.5, kid=0.25, kid_low=0.0, kid_high=0.5, parameters=1234, latency_ms=1.5)
SHEET = b"\x89PNG of samples"


class Tracked:
    """One run with a store, an event log and MLflow in a folder."""

    def __init__(self, folder: Path, uri: str = "") -> None:
        self.store = Store(str(folder))
        kinds = {"data": "load_dataset", "student": "anneal_reflow", "quality": "evaluate"}
        self.plan = RunPlan(
            name="digits",
            storage=self.store.uri,
            tracking=uri or f"sqlite:///{folder}/mlflow.db",
            jobs=tuple(self.planned(name, kind) for name, kind in kinds.items()),
        )
        self.log = EventLog(self.store.blobs, RUN)
        self.log.add("run_started", **as_event(self.plan))

    def planned(self, name: str, kind: str) -> PlannedJob:
        fields = {"seed": 3, "network": {"kind": "song_unet", "channels": 8}, "note": "x" * 900}
        return PlannedJob(
            name=name, kind=kind, fields=fields, key="k", artifact=f"{kind}-k", inputs={},
            fingerprint={}, action="run", reason="",
        )  # fmt: skip

    def put(self, artifact: str, handle: Dataset | QualityReport) -> None:
        put(self.store, artifact, handle, {"samples.png": SHEET}, wall_s=3, device_s=6)

    def tracker(self) -> Tracker:
        return Tracker(RUN, self.plan.model_dump(mode="json"))

    def track(self, *, pushed: bool = True) -> str:
        """Writes the log so far through a new tracker; returns its problem."""
        self.log.flush()
        tracker = self.tracker()
        if pushed:
            tracker.push([event.model_dump() for event in self.log.events])
        return tracker.finish()

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.plan.tracking)

    def runs(self) -> dict[str, Run]:
        """Job name -> child; "" -> parent."""
        experiment = self.client.get_experiment_by_name("digits")
        found = self.client.search_runs([experiment.experiment_id])
        mine = [run for run in found if run.data.tags[RUN_TAG] == RUN]
        named = {run.data.tags.get(JOB_TAG, ""): run for run in mine}
        assert len(named) == len(mine), "no job has two children"
        return named

    def progress(self, step: int, loss: float) -> None:
        self.log.add("progress", "student", done=step, total=100, metrics={"loss": loss})

    def curve(self) -> list[tuple[int, float]]:
        child = self.runs()["student"].info.run_id
        points = self.client.get_metric_history(child, "train/loss")
        return [(point.step, point.value) for point in points]


@pytest.fixture
def tracked(tmp_path, put_database) -> Tracked:
    put_database(tmp_path)
    return Tracked(tmp_path)


def finished(tracked: Tracked) -> Tracked:
    """A run whose three jobs came to a good end."""
    tracked.put(
        "load_dataset-k", Dataset(image=ImageShape(channels=1, size=8), count=5, flip_valid=False)
    )
    tracked.put("evaluate-k", REPORT)
    log = tracked.log
    log.add("job_reused", "data")
    log.add("job_started", "student", attempt=1)
    for step in (10, 20, 30):
        tracked.progress(step, 1.0 / step)
    log.add("warning", "student", message="few images")
    log.add("job_done", "student", wall_s=1.0, device_s=2.0)
    log.add("job_done", "quality", wall_s=1.0, device_s=2.0)
    log.add("run_ended", state="done")
    return tracked


def test_a_run_is_a_parent_with_a_child_per_job(tracked):
    assert finished(tracked).track() == ""
    runs = tracked.runs()
    assert runs.keys() == {"", "data", "student", "quality"}
    parent = runs.pop("")
    assert parent.info.run_name == RUN
    assert parent.data.tags[EVENTS_TAG] == str(len(tracked.log.events))
    for name, run in runs.items():
        assert run.data.tags[PARENT_TAG] == parent.info.run_id
        assert run.info.run_name == name
        assert run.info.status == "FINISHED"
    assert parent.info.status == "FINISHED"
    assert runs["data"].data.tags["slimctl.state"] == "reused"
    assert runs["student"].data.tags["slimctl.warning"] == "few images"
    params = runs["student"].data.params
    assert params["kind"] == "anneal_reflow"
    assert params["seed"] == "3"
    assert params["network.channels"] == "8"
    assert params["note"] == "x" * 500
    assert tracked.curve() == [(10, 0.1), (20, 0.05), (30, pytest.approx(1 / 30))]
    measured = runs["quality"].data.metrics
    assert {
        "fid": 12.5,
        "kid": 0.25,
        "parameters": 1234,
        "macs": 4_460_000,
    }.items() <= measured.items()
    assert measured["wall_s"] == 3
    assert "straightness" not in measured
    said = {(event.name, event.job): round(event.time * 1000) for event in tracked.log.events}
    assert runs["student"].info.start_time == said["job_started", "student"]
    assert runs["student"].info.end_time == said["job_done", "student"]
    assert parent.info.start_time == said["run_started", ""]
    assert parent.info.end_time == said["run_ended", ""]
    (sheet,) = tracked.client.list_artifacts(runs["quality"].info.run_id)
    assert sheet.path == "samples.png"
    found = list(Path(tracked.store.uri, "mlartifacts").rglob("samples.png"))
    assert [path.read_bytes() for path in found] == [SHEET]


def test_failed_and_cancelled_jobs_say_so(tracked):
    log = tracked.log
    tracked.progress(10, math.nan)
    log.add("job_failed", "quality", failure="ValueError", what="it broke")
    log.add("job_cancelled", "student")
    log.add("job_cancelled", "data")
    log.add("run_ended", state="failed")
    assert tracked.track() == ""
    runs = tracked.runs()
    assert {name: run.info.status for name, run in runs.items()} == {
        "": "FAILED", "quality": "FAILED", "student": "KILLED",
    }  # fmt: skip
    assert runs["quality"].data.tags["slimctl.error"] == "it broke"
    ((step, loss),) = tracked.curve()
    assert step == 10
    assert math.isnan(loss)


def test_a_cancelled_run_is_killed(tracked):
    tracked.log.add("run_ended", state="cancelled")
    assert tracked.track() == ""
    assert tracked.runs()[""].info.status == "KILLED"


def test_a_restart_writes_nothing_twice(tracked):
    """A new tracker of the same run is reported everything again and takes only what is new."""
    tracked.progress(10, 0.5)
    assert tracked.track() == ""
    tracked.progress(20, 0.25)
    assert tracked.track() == ""
    assert finished(tracked).track() == ""
    assert tracked.track() == ""
    assert [step for step, _ in tracked.curve()] == [10, 20, 10, 20, 30]
    assert tracked.runs().keys() == {"", "data", "student", "quality"}


def test_what_an_earlier_tracker_took_to_its_grave_is_read_from_the_log(tracked):
    assert finished(tracked).track(pushed=False) == ""
    assert len(tracked.curve()) == 3
    assert tracked.runs()[""].info.status == "FINISHED"


def test_runs_that_died_are_ended_and_others_are_not(tracked):
    client = tracked.client
    experiment = client.create_experiment("digits")
    for run in ("digits-dead", "digits-alive"):
        client.create_run(experiment, tags={RUN_TAG: run}, run_name=run)
        client.create_run(experiment, tags={RUN_TAG: run, JOB_TAG: "data"}, run_name=f"{run}-data")
    client.create_run(experiment, run_name="somebody-else")
    run_lease(tracked.store.blobs, "digits-alive").renew()
    assert tracked.track() == ""
    states = {run.info.run_name: run.info.status for run in client.search_runs([experiment])}
    assert states == {
        "digits-dead": "KILLED", "digits-dead-data": "KILLED", "digits-alive": "RUNNING",
        "digits-alive-data": "RUNNING", "somebody-else": "RUNNING", RUN: "RUNNING",
    }  # fmt: skip


def test_a_result_that_is_gone_is_passed_over(tracked):
    tracked.log.add("job_done", "quality", wall_s=1.0, device_s=2.0)
    assert tracked.track() == ""
    assert tracked.runs()["quality"].info.status == "FINISHED"


def test_a_dead_server_delays_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    for name, value in {**tracking.SETTINGS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    tracked = Tracked(tmp_path, "http://127.0.0.1:9")
    tracker = tracked.tracker()
    for _ in range(100):
        tracker.push([event.model_dump() for event in tracked.log.events])
    problem = tracker.finish(grace_s=20.0)
    assert "127.0.0.1" in problem
    assert "\n" not in problem


def test_a_server_that_hangs_is_given_up(tmp_path, monkeypatch):
    """Its answer never comes, so whoever waited for it would wait for ever."""
    monkeypatch.setattr(Tracker, "_open", lambda self: threading.Event().wait())
    tracked = Tracked(tmp_path)
    tracker = tracked.tracker()
    tracker.push([event.model_dump() for event in tracked.log.events])
    assert "nothing was heard" in tracker.finish(grace_s=0.2)


def test_a_server_that_comes_back_gets_everything(tracked, monkeypatch):
    """The second try finds in the log what could not be pushed meanwhile."""
    monkeypatch.setattr(tracking, "RETRY_S", 0.05)
    opened = Tracker._open
    down = [True]

    def flaky(self: Tracker) -> None:
        if down[0]:
            raise ConnectionError("down")
        opened(self)

    monkeypatch.setattr(Tracker, "_open", flaky)
    tracker = tracked.tracker()
    while not tracker._problem:
        time.sleep(0.01)
    finished(tracked).log.flush()
    tracker.push([event.model_dump() for event in tracked.log.events])
    down[0] = False
    assert tracker.finish() == ""
    assert len(tracked.curve()) == 3
    assert tracked.runs()[""].info.status == "FINISHED"


def test_nested_fields_become_dotted_names():
    assert dict(flatten({"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": {}})) == {
        "a": "1", "b.c": "[1, 2]",
    }  # fmt: skip


def test_the_run_itself_says_what_it_reached_and_holds_its_files(tracked):
    save_pipeline(tracked.store.blobs, RUN, "name: digits\n")
    tracked.plan = tracked.plan.model_copy(update={"price": Price(cpu_hour=2.0)})
    assert finished(tracked).track() == ""
    parent = tracked.runs()[""]
    assert parent.data.metrics["best_fid"] == REPORT.fid
    assert parent.data.metrics["smallest_parameters"] == REPORT.parameters
    assert parent.data.tags["slimctl.best"] == "quality"
    assert {"cpu_hours", "gpu_hours", "cost"} <= parent.data.metrics.keys()
    (named,) = [one.dataset for one in parent.inputs.dataset_inputs]
    assert (named.name, named.digest) == ("data", "k")
    assert json.loads(named.profile)["images"] == 5
    files = {one.path for one in tracked.client.list_artifacts(parent.info.run_id)}
    assert files == {"pipeline.yaml", "report.html"}


def test_an_experiment_of_another_name_is_used(tracked):
    tracked.plan = tracked.plan.model_copy(update={"experiment": "team"})
    assert finished(tracked).track() == ""
    assert tracked.client.get_experiment_by_name("team") is not None
    assert tracked.client.get_experiment_by_name("digits") is None
