import threading
import time

import pytest
from builders import RUN
from here import SMALL, run_here

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running import lifecycle as control
from slimctl.orchestrator.running.lifecycle import cancel, resume
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import (
    is_to_cancel,
    read_pipeline,
    read_status,
    run_ids,
    run_lease,
    save_pipeline,
)

TEXT = "name: digits\ntracking: null\njobs:\n  data: {kind: load_dataset, source: digits}\n"


@pytest.fixture
def store(tmp_path, monkeypatch, put_database) -> Store:
    """A storage with a run that began."""
    monkeypatch.setattr(control, "BREATH_S", 0.3)
    monkeypatch.setattr(control, "POLL_S", 0.01)
    put_database(tmp_path)
    made = Store(str(tmp_path))
    save_pipeline(made.blobs, RUN, TEXT)
    log = EventLog(made.blobs, RUN)
    jobs = {"data": {"kind": "load_dataset", "key": "d", "artifact": "load_dataset-d"}}
    log.add("run_started", name="digits", jobs=jobs, tracking=None)
    log.add("job_started", "data", attempt=1)
    log.flush()
    return made


@pytest.fixture
def started(monkeypatch) -> list:
    """What would be started."""
    found: list = []
    monkeypatch.setattr(control, "start", lambda run, plan, **options: found.append(options))
    return found


def test_a_run_without_a_supervisor_is_buried(store):
    status = cancel(store, RUN)
    assert (status.state, status.jobs["data"].state) == ("cancelled", "cancelled")
    with pytest.raises(UserError, match="is cancelled already"):
        cancel(store, RUN)


def test_a_cancelled_run_is_killed_in_mlflow(tmp_path, put_database):
    from mlflow import MlflowClient

    storage = tmp_path / "store"
    put_database(storage)
    run_here(storage)
    store = Store(str(storage))
    (run,) = run_ids(store.blobs)
    log = EventLog(store.blobs, run)
    log.add("run_resumed", request="x", jobs=["student"])
    log.flush()
    assert read_status(store.blobs, run).state == "interrupted"
    assert cancel(store, run).state == "cancelled"
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [each for each in found if each.info.run_name == run]
    assert parent.info.status == "KILLED"


def test_a_living_supervisor_is_asked(store):
    run_lease(store.blobs, RUN).renew()

    def supervise() -> None:
        while not is_to_cancel(store.blobs, RUN):
            time.sleep(0.01)
        log = EventLog(store.blobs, RUN)
        log.add("run_ended", state="cancelled")
        log.flush()

    thread = threading.Thread(target=supervise)
    thread.start()
    assert cancel(store, RUN).state == "cancelled"
    thread.join(5)


def test_a_supervisor_that_does_not_answer(store, monkeypatch):
    monkeypatch.setattr(control, "CANCEL_S", 0.05)
    run_lease(store.blobs, RUN).renew()
    with pytest.raises(UserError, match="has not answered yet"):
        cancel(store, RUN)
    assert is_to_cancel(store.blobs, RUN)


def test_a_resumed_run_forgets_that_it_was_cancelled(store, started):
    cancel(store, RUN)
    resume(store, RUN)
    assert not is_to_cancel(store.blobs, RUN)
    (options,) = started
    assert options["resumption"]
    assert (options["address"], options["detach"]) == (None, False)


def test_a_run_that_lives_elsewhere_is_not_resumed(store, started):
    run_lease(store.blobs, RUN).renew()
    beat = threading.Timer(0.1, run_lease(store.blobs, RUN).renew)
    beat.start()
    with pytest.raises(UserError, match="is alive already") as caught:
        resume(store, RUN)
    assert f"slimctl logs {RUN} -f" in caught.value.fix
    assert started == []


def test_a_run_whose_supervisor_breathes_no_more_is_resumed(store, started):
    run_lease(store.blobs, RUN).renew()
    resume(store, RUN)
    assert len(started) == 1


def test_a_finished_run_has_nothing_to_resume(tmp_path, started):
    run_here(tmp_path)
    store = Store(str(tmp_path))
    (run,) = run_ids(store.blobs)
    assert not resume(store, run).started_ray
    assert started == []


def test_a_finished_run_that_lost_a_result_is_resumed(tmp_path, started):
    run_here(tmp_path)
    store = Store(str(tmp_path))
    (run,) = run_ids(store.blobs)
    store.blobs.delete(f"artifacts/{store.find('anneal_reflow')[0]}")
    resume(store, run)
    assert len(started) == 1


def test_a_run_whose_pipeline_is_damaged_is_refused(store, started):
    name = f"runs/{RUN}/pipeline.yaml"
    store.blobs.write(name, store.blobs.read(name).replace(b"digits", b"digit5", 1))
    with pytest.raises(DamagedArtifact, match=r"pipeline.yaml.*not what was written"):
        resume(store, RUN)


def test_resume_cannot_detach_from_a_private_ray(store):
    with pytest.raises(UserError, match="ends with this program"):
        resume(store, RUN, detach=True)


def test_the_pipeline_of_a_run_is_whole(tmp_path):
    run_here(tmp_path, SMALL)
    store = Store(str(tmp_path))
    assert "seed: 3" in read_pipeline(store.blobs, run_ids(store.blobs)[0])
