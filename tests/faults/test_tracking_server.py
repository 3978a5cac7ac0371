"""A real MLflow server that dies in the middle of a run and comes back."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from here import run_here

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running.lifecycle import load_run
from slimctl.orchestrator.running.tracking import Tracker
from slimctl.orchestrator.runs.events import read_events
from slimctl.orchestrator.runs.runs import run_ids

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


class Server:
    """`mlflow server` on loopback, with a database that outlives it."""

    def __init__(self, folder) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
             str(self.port), "--backend-store-uri", f"sqlite:///{self._folder}/server.db",
             "--artifacts-destination", str(self._folder / "artifacts"), "--workers", "1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path)
    made.start()
    yield made
    made.kill()


def test_tracking_is_complete_after_the_server_is_back(server, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setattr("slimctl.orchestrator.running.tracking.RETRY_S", 1.0)
    storage = tmp_path / "store"
    run_here(storage)
    store = Store(str(storage))
    (run,) = run_ids(store.blobs)
    _, plan = load_run(store, run)
    events = [event.model_dump() for event in read_events(store.blobs, run)]
    hidden: list = []  # what the tracker finds in the store: it grows as the run goes on
    monkeypatch.setattr(
        "slimctl.orchestrator.running.tracking.read_events", lambda blobs, run: iter(hidden)
    )
    tracker = Tracker(run, {**plan.model_dump(mode="json"), "tracking": server.uri})
    half = len(events) // 2
    tracker.push(events[:half])
    hidden += [event for event in read_events(store.blobs, run) if event.number < half]
    client = MlflowClient(server.uri)
    deadline = time.monotonic() + 60
    while not client.search_runs([e.experiment_id for e in client.search_experiments()]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.kill()
    tracker.push(events[half:])
    hidden[:] = list(read_events(store.blobs, run))
    time.sleep(2)
    server.start()
    time.sleep(2)
    assert tracker.finish() == ""
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id])
    assert {each.info.run_name for each in found} == {run, "data", "teacher", "pairs", "student"}
    assert {each.info.status for each in found} == {"FINISHED"}
    (student,) = [each for each in found if each.info.run_name == "student"]
    assert student.data.metrics["wall_s"] > 0


def test_a_server_that_stays_away_is_reported_and_made_good_later(server, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setattr("slimctl.orchestrator.running.tracking.RETRY_S", 0.5)
    storage = tmp_path / "store"
    run_here(storage)
    store = Store(str(storage))
    (run,) = run_ids(store.blobs)
    _, plan = load_run(store, run)
    tracked = {**plan.model_dump(mode="json"), "tracking": server.uri}
    server.kill()
    assert Tracker(run, tracked).finish() != ""
    server.start()
    assert Tracker(run, tracked).finish() == ""
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id])
    assert {each.info.status for each in found} == {"FINISHED"}
    assert len(found) == 5
