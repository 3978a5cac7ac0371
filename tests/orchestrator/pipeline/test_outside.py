"""Paths of files that pipelines name."""

from pathlib import Path

import numpy as np
import pytest

from slimctl.jobs.base.registry import parse_job
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve, with_absolute_paths
from slimctl.orchestrator.planning.graph import Graph, identities, preflight

SWEEP = """\
name: a
jobs:
  data: {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data}
  sizes:
    kind: sweep
    space: {bandwidth: {choice: [0.1, 0.2]}}
    jobs:
      flow: {kind: analytic_flow, data: data, bandwidth: "${bandwidth}"}
      quality:
        {kind: evaluate, model: flow, data: data, features: features, reference: REFERENCE,
         solver: {kind: euler, steps: 2}}
    minimize: quality.fid
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "ref.npz").write_bytes(b"")
    np.savez(tmp_path / "ref.npz", mu=np.zeros(64), sigma=np.eye(64))
    (tmp_path / "digits").mkdir()  # a folder of that name is not the data set
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("ref.npz", "ref.npz"), ("./ref.npz", "ref.npz"), ("~/ref.npz", "home/ref.npz"),
        ("none.npz", None),
    ],
)  # fmt: skip
def test_paths_are_absolute_where_something_is_there(here, written, meant):
    fields = {"model": "m", "data": "d", "features": "f", "reference": written}
    expected = written if meant is None else str(here / meant)
    assert with_absolute_paths(parse_job("evaluate", fields)).reference == expected
    fields["draws"] = "${draws}"
    sweep = {
        "space": {"draws": {"choice": [1, 2]}}, "minimize": "quality.fid",
        "jobs": {"quality": {"kind": "evaluate", **fields}},
    }  # fmt: skip
    jobs = with_absolute_paths(parse_job("sweep", sweep)).jobs
    assert jobs == {"quality": {"kind": "evaluate", **fields, "reference": expected}}


def test_a_sweep_finds_the_files_of_the_home_folder(here):
    (here / "ref.npz").rename(here / "home" / "ref.npz")
    text = SWEEP.replace("REFERENCE", "~/ref.npz")
    pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(here / "store")).pipeline)
    assert preflight(pipeline, Graph.of(pipeline)).keys() >= {"data", "sizes"}
    assert identities(pipeline).keys() >= {"sizes"}


def test_the_word_for_a_data_set_is_no_path(here):
    dataset = parse_job("load_dataset", {"source": "digits"})
    assert with_absolute_paths(dataset).source == "digits"
    jobs = {"data": {"kind": "load_dataset", "source": "digits", "max_images": "${n}"}}
    fields = {"space": {"n": {"choice": [8]}}, "jobs": jobs, "minimize": "data.count"}
    assert with_absolute_paths(parse_job("sweep", fields)).jobs == jobs


def test_a_file_that_a_sweep_needs_is_missed_at_its_line(here):
    text = SWEEP.replace("REFERENCE", "none.npz")
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(text, "a.yaml", storage=str(here / "store"))
    (problem,) = caught.value.problems
    assert (problem.line, "none.npz" in problem.what) == (11, True)
