import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.base.artifacts import Dataset
from jobs.base.cluster import Cluster
from jobs.storage.store import Store
from models.spec import ImageShape
from orchestrator import Pipeline
from orchestrator.events import Event
from orchestrator.graph import identities
from orchestrator.pipeline import load_pipeline, resolve
from orchestrator.plan import RunPlan
from orchestrator.problems import PipelineProblems
from orchestrator.status import JobStatus, RunStatus
from orchestrator.submission import Submission

submission = sys.modules["orchestrator.submission"]
WRONG = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits, colour: red}
  teacher: {kind: analytic_flo, data: data}
  pairs: {kind: generate_pairs, flow: teecher, count: 10}
"""


@pytest.fixture
def wrong_file(tmp_path) -> Path:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    return file


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    def connect(address):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(submission, "connect", connect)


def finish(file: Path, storage: Path) -> None:
    """Puts the result of the pipeline's one job into the storage."""
    pipeline = resolve(load_pipeline(file, (), str(storage)).pipeline)
    store = Store(str(storage))
    handle = Dataset(image=ImageShape(channels=1, size=8), count=1, flip_valid=False)
    manifest = {"kind": "x", "version": 1, "spec": {}, "inputs": {}, "wall_s": 1, "device_s": 1}
    store.commit(identities(pipeline)["data"].id, handle, store.stage(), manifest)


@pytest.fixture
def ends(monkeypatch, tmp_path) -> Callable[..., None]:
    """`ends("failed", failure="UserError")`: how the next run ends."""

    def prepare(state: str, **fields: object) -> None:
        job = JobStatus(kind="load_dataset", key="k", artifact="a", state=state, **fields)
        status = RunStatus(run="run-1", state=state, ended=1.0, jobs={"data": job})
        plan = RunPlan(name="digits", storage=str(tmp_path), tracking=None, jobs=())

        def submit(pipeline, *, address, detach, listener, on_plan, on_doubts):
            on_plan(plan, "run-1")
            listener(Event(number=0, time=0.0, name="run_ended", details={"state": state}))
            return Submission("run-1", status, plan, started_ray=True)

        monkeypatch.setattr(submission, "submit", submit)

    return prepare


# Files without mistakes


def test_check_says_that_there_are_no_mistakes(slimctl, pipeline_file):
    ended = slimctl("check", pipeline_file)
    assert (ended.code, ended.out, ended.err) == (0, f"{pipeline_file}: 1 jobs, no mistakes\n", "")
    ended = slimctl("check", pipeline_file, "--json")
    assert json.loads(ended.out) == {"name": "digits", "jobs": ["data"], "warnings": []}


@pytest.fixture
def few_images(tmp_path) -> Path:
    """A pipeline that measures against 20 images, which only reading the file tells."""
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(20) % 2)
    file = tmp_path / "few.yaml"
    file.write_text(
        "name: few\njobs:\n"
        f"  data: {{kind: load_dataset, source: {tmp_path}/few.npz, size: 8, channels: 1, "
        "classes: 2}\n  features: {kind: train_features, data: data}\n"
        "  flow: {kind: analytic_flow, data: data}\n  quality: {kind: evaluate, model: flow, "
        "data: data, features: features, samples: 10000, solver: {kind: euler, steps: 2}}\n"
    )
    return file


def test_what_is_doubtful_is_a_warning(slimctl, few_images):
    said = slimctl("check", few_images)
    assert (said.code, said.out) == (0, f"{few_images}: 4 jobs, no mistakes, 1 warning\n")
    assert said.err == (
        f"{few_images}:6: warning: job 'quality', data: 'data' has only 20 images for 64 features, "
        "so that their covariance is singular, and a FID against them says little\n"
        "  fix: compare with 100 images or more, better thousands; KID is not biased by few\n"
    )
    planned = slimctl("plan", few_images)
    assert (planned.code, planned.err) == (0, said.err)
    for verb in ("check", "plan"):
        ended = slimctl(verb, few_images, "--json")
        (warning,) = json.loads(ended.out)["warnings"]
        assert (warning["line"], ended.err) == (6, said.err)


def test_a_submission_says_what_is_doubtful_before_it_starts(slimctl, few_images, monkeypatch):
    monkeypatch.setattr(submission, "start", lambda *_, **__: sys.exit(130))
    ended = slimctl("submit", few_images)
    assert "4 of 4 jobs to do" in ended.err.splitlines()[0]
    assert "few.yaml:6: warning: job 'quality', data: " in ended.err.splitlines()[1]
    monkeypatch.setenv("SLIMCTL_QUIET", "1")
    assert slimctl("submit", few_images).err == ""


def test_plan_says_what_is_to_be_done(slimctl, pipeline_file, tmp_path):
    ended = slimctl("plan", pipeline_file)
    assert ended.code == 0
    assert "not in the store" in ended.out
    assert not (tmp_path / "store").exists(), "nothing is written"
    finish(pipeline_file, tmp_path / "store")
    made = json.loads(slimctl("plan", pipeline_file, "--json").out)
    assert [(job["name"], job["action"]) for job in made["jobs"]] == [("data", "reuse")]
    assert made["storage"] == str(tmp_path / "store")
    other = slimctl("plan", pipeline_file, "--storage", tmp_path / "other", "--json")
    assert json.loads(other.out)["jobs"][0]["action"] == "run"


@pytest.mark.parametrize("gpus", [0, 2])
def test_plan_says_what_it_costs_and_at_which_rate(slimctl, tmp_path, monkeypatch, gpus):
    file = tmp_path / "train.yaml"
    file.write_text(
        "name: a\njobs:\n  data: {kind: load_dataset, source: digits}\n  flow: {kind: train_flow, "
        "data: data, network: {preset: cifar10-3.4m}, steps: 1000000}\n"
    )
    monkeypatch.setenv("SLIMCTL_STORAGE", str(tmp_path / "store"))
    monkeypatch.setattr("orchestrator.devices.devices_here", lambda: Cluster(3, gpus))
    said = slimctl("plan", file).out
    for words in ("parameters", "MACs", "PFLOP"):
        assert words in said.splitlines()[0]
    default = json.loads(slimctl("plan", file, "--json").out)
    if gpus:
        assert "GPU-hours" in said.splitlines()[0]
        assert "GPU-hours at 40 TFLOP/s a GPU (assumed, not measured; change it with " in said
        assert default["estimate"]["tflops"] == 40.0
    else:
        assert "GPU-hours" not in said.splitlines()[0]
        assert "PFLOP; how long that takes is not known: here are 3 CPUs and no GPU, and " in said
        assert default["estimate"]["tflops"] is None
        assert default["estimate"]["gpu_hours"] is None
        assert {job["gpu_hours"] for job in default["jobs"]} == {None}
    asked = slimctl("plan", file, "--tflops", 5).out
    assert "GPU-hours at 5 TFLOP/s a GPU (assumed, not measured" in asked
    assert ("this machine has none" in asked) == (gpus == 0)
    made = [json.loads(slimctl("plan", file, "--json", "--tflops", n).out) for n in (40, 80)]
    hours = [each["estimate"]["gpu_hours"] for each in made]
    assert hours[0] == pytest.approx(2 * hours[1])
    assert made[0]["jobs"][1]["pflop"] == pytest.approx(made[0]["estimate"]["pflop"])


def test_a_plan_without_the_files_says_the_cost_and_what_is_missing(slimctl, tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text(
        "name: a\njobs:\n  data: {kind: load_dataset, source: ./none, size: 32, channels: 3, "
        "labels: false}\n  flow: {kind: train_flow, data: data, network: {preset: cifar10-3.4m}, "
        "steps: 1000}\n  features: {kind: import_features, path: none.onnx}\n"
        "  digits: {kind: load_dataset, source: digits}\n"
    )
    ended = slimctl("plan", file, "--storage", tmp_path / "store")
    assert ended.code == 2
    rows = {line.split()[0]: line for line in ended.out.splitlines() if line}
    assert "blocked  a file is missing" in rows["data"]
    assert "blocked  after its inputs" in rows["flow"]
    assert "3,437,123" in rows["flow"]
    assert "  run  " in rows["digits"].replace("      ", "  ")
    assert f"{file}:3" in ended.err
    assert f"{file}:5" in ended.err
    for verb in ("check", "submit"):
        other = slimctl(verb, file)
        assert (other.code, other.out) == (2, "")
        assert f"{file}:3" in other.err
        assert f"{file}:5" in other.err
    said = json.loads(slimctl("plan", file, "--json").out)
    assert [problem["line"] for problem in said] == [3, 5]


def test_a_value_is_changed_from_the_command_line(slimctl, pipeline_file):
    keys = {
        json.loads(slimctl("plan", pipeline_file, "--json", *change).out)["jobs"][0]["key"]
        for change in ([], ["--set", "jobs.data.max_images=9"], ["--set", "jobs.data.max_images=8"])
    }
    assert len(keys) == 3


def test_submitting_what_is_there_starts_nothing(slimctl, pipeline_file, tmp_path):
    finish(pipeline_file, tmp_path / "store")
    ended = slimctl("submit", pipeline_file, "--json")
    assert ended.code == 0
    assert ended.err.startswith("nothing to do: the store has every result (run digits-")
    made = json.loads(ended.out)
    assert made["state"] == "done"
    assert made["jobs"]["data"]["state"] == "reused"
    assert made["jobs"]["data"]["artifact"]["count"] == 1
    assert slimctl("status").out.count("digits-") == 1


# Files with mistakes


@pytest.mark.parametrize("verb", ["check", "plan", "submit"])
def test_every_mistake_is_told_at_once_with_its_line(slimctl, wrong_file, verb):
    ended = slimctl(verb, wrong_file)
    assert ended.code == 2
    assert ended.out == ""
    for line, word in ((3, "colour"), (4, "analytic_flo"), (5, "teecher")):
        assert any(
            told.startswith(f"{wrong_file}:{line}:") and word in told
            for told in ended.err.splitlines()
        )
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("verb", ["check", "plan", "submit"])
def test_mistakes_are_data_too(slimctl, wrong_file, verb):
    ended = slimctl(verb, wrong_file, "--json")
    assert ended.code == 2
    problems = json.loads(ended.out)
    assert all(one.keys() == {"file", "line", "column", "what", "fix"} for one in problems)
    assert {one["file"] for one in problems} == {str(wrong_file)}
    assert [one["line"] for one in problems] == [3, 4, 5]
    assert all(one["column"] >= 1 for one in problems)
    assert "analytic_flow" in problems[1]["fix"]
    assert "teacher" in problems[2]["fix"]
    assert slimctl(verb, wrong_file).err == ended.err, "people are told the same"


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_mistakes_in_the_data_are_told_together_with_those_of_the_file(slimctl, few_images, verb):
    file = few_images.with_name("few.npz")
    file.write_bytes(b"torn")
    few_images.write_text(few_images.read_text().replace("10000", "none"))
    ended = slimctl(verb, few_images, "--json")
    assert [one["line"] for one in json.loads(ended.out)] == [3, 6]
    assert str(file) in ended.err


def test_python_is_told_the_same(wrong_file):
    with pytest.raises(PipelineProblems) as from_file:
        load_pipeline(wrong_file)
    with pytest.raises(PipelineProblems) as from_python:
        Pipeline(
            name="digits",
            jobs={
                "data": {"kind": "load_dataset", "source": "digits", "colour": "red"},
                "teacher": {"kind": "analytic_flo", "data": "data"},
                "pairs": {"kind": "generate_pairs", "flow": "teecher", "count": 10},
            },
        )
    told = [{(one.what, one.fix) for one in e.value.problems} for e in (from_file, from_python)]
    assert told[0] == told[1]


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_input_that_is_not_there_is_a_mistake_of_the_file(slimctl, pipeline_file, verb):
    pipeline_file.write_text(pipeline_file.read_text().replace("digits}", "./nowhere}"))
    ended = slimctl(verb, pipeline_file, "--json")
    assert ended.code == 2
    (problem,) = json.loads(ended.out)
    assert problem["line"] == 3
    assert "nowhere" in problem["what"]


def test_an_unknown_path_in_set_is_a_mistake(slimctl, pipeline_file):
    ended = slimctl("check", pipeline_file, "--set", "jobs.data.sourse=x", "--json")
    assert ended.code == 2
    (problem,) = json.loads(ended.out)
    assert problem["file"] == "--set jobs.data.sourse=x"
    assert "source" in problem["fix"]


def test_a_file_that_is_not_there(slimctl, tmp_path):
    ended = slimctl("check", tmp_path / "none.yaml")
    assert ended.code == 2
    assert "none.yaml" in ended.err


def test_a_storage_that_cannot_be_written(slimctl, pipeline_file, tmp_path):
    (tmp_path / "file").write_text("")
    ended = slimctl("submit", pipeline_file, "--storage", tmp_path / "file" / "store")
    assert ended.code == 2
    assert f"storage {tmp_path}/file/store: cannot be written" in ended.err
    assert "--storage" in ended.err


def test_a_storage_that_nothing_opens(slimctl, pipeline_file):
    ended = slimctl("plan", pipeline_file, "--storage", "nope://x")
    assert ended.code == 2
    assert "nope://x" in ended.err


# How runs end


@pytest.mark.parametrize(
    ("failure", "code"),
    [("UserError", 2), ("DamagedArtifact", 3), ("JobFailed", 4), ("ValueError", 4)],
)
def test_a_failed_run_has_its_exit_code(slimctl, pipeline_file, ends, failure, code):
    ends("failed", failure=failure, message="it broke", fix="mend it")
    ended = slimctl("submit", pipeline_file, "--json")
    assert ended.code == code
    made = json.loads(ended.out)
    assert (made["state"], made["jobs"]["data"]["error"]) == ("failed", "it broke")
    assert ended.err.endswith("run run-1: job 'data' failed: it broke\n  fix: mend it\n")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ([], ["stopped", "finished jobs and checkpoints are kept", "slimctl resume run-1"]),
        (["--address", "auto"], ["goes on at auto", "slimctl logs run-1 -f"]),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(slimctl, pipeline_file, monkeypatch, address, words):
    def submit(pipeline, *, address, detach, listener, on_plan, on_doubts):
        on_plan(RunPlan(name="x", storage="/s", tracking=None, jobs=()), "run-1")
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "submit", submit)
    ended = slimctl("submit", pipeline_file, *address)
    assert ended.code == 130
    assert ended.out == ""
    assert all(word in ended.err for word in ["interrupted: run run-1", *words])


def test_the_program_is_quiet_when_told(slimctl, pipeline_file, ends, monkeypatch):
    monkeypatch.setenv("SLIMCTL_QUIET", "1")
    ends("cancelled")
    ended = slimctl("submit", pipeline_file)
    assert ended.code == 4
    assert ended.err.startswith("run run-1: was cancelled")


@pytest.mark.parametrize("verb", ["check", "plan", "submit"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "../x"), ("name", "/etc/x"), ("name", "x" * 300), ("name", '"x\\0"'),
        ("  ../d", "{kind: load_dataset, source: digits}"),
        ("  /etc/d", "{kind: load_dataset, source: digits}"),
        ("  " + "d" * 300, "{kind: load_dataset, source: digits}"),
        ('  "d\\0"', "{kind: load_dataset, source: digits}"),
    ],
)  # fmt: skip
def test_no_name_leaves_the_storage(slimctl, tmp_path, verb, key, value):
    file = tmp_path / "hostile.yaml"
    name = "" if key == "name" else "name: x\n"
    jobs = "jobs:\n" if key != "name" else "jobs: {d: {kind: load_dataset, source: digits}}\n"
    file.write_text(f"{name}{jobs}{key}: {value}\n")
    ended = slimctl(verb, file)
    assert ended.code == 2
    assert "1 to 64 letters" in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "store").exists()


def test_a_password_in_a_uri_is_refused_and_not_repeated(slimctl, pipeline_file, tmp_path):
    pipeline_file.write_text(f"tracking: http://me:canary@host/\n{pipeline_file.read_text()}")
    ended = slimctl("submit", pipeline_file)
    assert ended.code == 2
    assert "MLFLOW_TRACKING_PASSWORD" in ended.err
    assert "canary" not in ended.err + ended.out
    assert not (tmp_path / "store").exists()
