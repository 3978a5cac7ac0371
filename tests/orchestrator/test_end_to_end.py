"""The whole chain through the command line, on a real private Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from builders import TINY, strangers_folder
from safetensors.numpy import load_file

from slimctl.jobs.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
SLIMCTL = [sys.executable, "-m", "slimctl"]


def slimctl(
    *arguments: str | Path, check: bool = True, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SLIMCTL, *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False,
        cwd=folder,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("pipeline") / "tiny.yaml"
    file.write_text(TINY)
    return file


@pytest.fixture(scope="module")
def submitted(pipeline, tmp_path_factory) -> tuple[Path, dict]:
    """A storage with the finished pipeline, and what submit printed.

    Submitted from a stranger's folder, whose packages would break whatever imports them.
    """
    storage = tmp_path_factory.mktemp("store")
    folder = strangers_folder(tmp_path_factory.mktemp("stranger"), "torch", "PIL", "mlflow")
    done = slimctl("submit", pipeline, "--storage", storage, "--json", folder=folder)
    assert "starting Ray" in done.stderr
    assert "raylet" not in done.stderr
    return storage, json.loads(done.stdout)


def test_submit_prints_every_job(submitted):
    _, result = submitted
    assert result["state"] == "done"
    assert set(result["jobs"]) == {
        "data", "features", "teacher", "pairs", "student", "one_step", "student_2", "quality",
    }  # fmt: skip
    assert {job["state"] for job in result["jobs"].values()} == {"done"}
    report = result["jobs"]["quality"]["artifact"]
    for field in ("fid", "kid", "precision", "recall", "nfe", "samples", "parameters", "macs"):
        assert report[field] >= 0 or field == "kid"
    assert report["nfe"] == 1
    assert report["latency_ms"] > 0
    assert result["jobs"]["pairs"]["kind"] == "generate_pairs"


def test_submitting_again_does_nothing(submitted, pipeline):
    storage, first = submitted
    done = slimctl("submit", pipeline, "--storage", storage, "--json")
    again = json.loads(done.stdout)
    assert "nothing to do" in done.stderr
    assert "starting Ray" not in done.stderr
    assert again["run"] == first["run"]
    assert {n: j["key"] for n, j in again["jobs"].items()} == {
        n: j["key"] for n, j in first["jobs"].items()
    }


def test_plan_of_a_changed_field_runs_only_what_depends_on_it(submitted, pipeline):
    storage, _ = submitted
    done = slimctl(
        "plan", pipeline, "--storage", storage, "--set", "jobs.one_step.steps=31", "--json"
    )
    actions = {job["name"]: job["action"] for job in json.loads(done.stdout)["jobs"]}
    assert {name for name, action in actions.items() if action != "reuse"} == {
        "one_step",
        "quality",
    }


def test_show_status_and_sample(submitted, tmp_path):
    storage, result = submitted
    run = result["run"]
    assert run in slimctl("status", "--storage", storage).stdout
    assert "one_step" in slimctl("show", run, "--storage", storage).stdout
    shown = json.loads(slimctl("show", f"{run}/quality", "--storage", storage, "--json").stdout)
    assert shown["type"] == "QualityReport"
    target = tmp_path / "samples.npz"
    slimctl(
        "sample", f"{run}/one_step", "-n", "5", "--seed", "1", "-o", target, "--storage", storage
    )
    with np.load(target) as arrays:
        assert arrays["images"].shape == (5, 8, 8, 1)
        assert arrays["images"].dtype == np.uint8
        assert arrays["labels"].shape == (5,)


def test_mlflow_has_a_parent_and_a_child_per_job(submitted):
    from mlflow import MlflowClient

    storage, result = submitted
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.tags["slimctl.job"]: r for r in runs if "slimctl.job" in r.data.tags}
    assert set(children) == set(result["jobs"])
    assert {r.info.status for r in runs} == {"FINISHED"}
    report = result["jobs"]["quality"]["artifact"]
    assert children["quality"].data.metrics["fid"] == pytest.approx(report["fid"])
    curve = client.get_metric_history(children["student"].info.run_id, "train/loss")
    assert [point.step for point in curve][-1] == 60
    assert [f.path for f in client.list_artifacts(children["quality"].info.run_id)] == [
        "samples.png"
    ]


def weights(storage: Path, result: dict, job: str) -> dict[str, np.ndarray]:
    handle = result["jobs"][job]["artifact"]
    return load_file(storage / "artifacts" / handle["id"] / handle["file"])


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_a_killed_program_continues_and_gives_the_same_bits(submitted, tmp_path):
    """SIGKILL while the student trains; the second submit ends where the first storage did."""
    storage, first = submitted
    pipeline = tmp_path / "models.yaml"
    pipeline.write_text(TINY.split("  student_2:")[0])
    arguments = ["submit", pipeline, "--storage", tmp_path / "store", "--json"]
    arguments += ["--set", "jobs.student.checkpoint_s=0.2"]
    with subprocess.Popen(
        [*SLIMCTL, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + 600
        while not list((tmp_path / "store").glob("work/anneal_reflow-*/checkpoint-*")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    plan = slimctl("plan", pipeline, "--storage", tmp_path / "store", "--json")
    actions = {job["name"]: job["action"] for job in json.loads(plan.stdout)["jobs"]}
    assert actions["pairs"] == "reuse"
    assert actions["student"] == "resume"
    second = json.loads(slimctl(*arguments).stdout)
    assert second["jobs"]["pairs"]["state"] == "reused"
    for job in ("student", "one_step"):
        ours, theirs = weights(tmp_path / "store", second, job), weights(storage, first, job)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    one, two = Store(str(storage)), Store(str(tmp_path / "store"))
    key = first["jobs"]["pairs"]["key"]
    for name in one.blobs.names(f"pairs/generate_pairs-{key}"):
        if name.endswith(".safetensors"):
            assert one.blobs.read(name) == two.blobs.read(name)
