import json
from pathlib import Path

import numpy
import pytest

from slimctl import Pipeline
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import load_pipeline

pytestmark = pytest.mark.usefixtures("no_ray")
WRONG = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits, colour: red}
  teacher: {kind: analytic_flo, data: data}
  pairs: {kind: generate_pairs, flow: teecher, count: 10}
"""

WIDE = """\
name: wide
jobs:
  data: {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.1}
  quality: {kind: evaluate, model: teacher, data: data, features: features, reference: ./wide.npz}
"""


@pytest.fixture
def wrong_file(tmp_path) -> Path:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    return file


@pytest.mark.parametrize("verb", ["check", "plan", "submit"])
def test_every_mistake_is_reported_at_once_with_its_line(slimctl, wrong_file, verb):
    ended = slimctl(verb, wrong_file)
    assert ended.code == 2
    assert ended.out == ""
    for line, word in ((3, "colour"), (4, "analytic_flo"), (5, "teecher")):
        assert any(
            said.startswith(f"{wrong_file}:{line}:") and word in said
            for said in ended.err.splitlines()
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
    assert slimctl(verb, wrong_file).err == ended.err, "people are said the same"


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_mistakes_in_the_data_are_reported_with_those_of_the_file(slimctl, few_images, verb):
    file = few_images.with_name("few.npz")
    file.write_bytes(b"torn")
    few_images.write_text(few_images.read_text().replace("10000", "none"))
    ended = slimctl(verb, few_images, "--json")
    assert [one["line"] for one in json.loads(ended.out)] == [3, 6]
    assert str(file) in ended.err


def test_a_file_that_is_wrong_is_reported_once_under_its_name_in_the_pipeline(
    slimctl, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    numpy.savez("wide.npz", mu=numpy.zeros(9), sigma=numpy.eye(9))
    file = tmp_path / "wide.yaml"
    file.write_text(WIDE)
    ended = slimctl("check", file, "--json")
    said = [one["what"] for one in json.loads(ended.out)]
    assert len(said) == len(set(said))
    about = [one for one in said if "wide.npz" in one]
    assert len(about) == 1
    assert "'./wide.npz' has statistics of 9 features" in about[0]


def test_python_is_reported_the_same(wrong_file):
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
    said = [{(one.what, one.fix) for one in e.value.problems} for e in (from_file, from_python)]
    assert said[0] == said[1]


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
