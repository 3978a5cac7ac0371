"""Sweeps on a real Ray: Tune asks, the trials' jobs run, the store remembers."""

import time

import pytest
import ray

from slimctl import submit
from slimctl.jobs.base.artifacts import SweepReport
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline
from slimctl.orchestrator.running.launcher import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
TEXT = """\
name: sweep
jobs:
  data: {kind: load_dataset, source: digits, max_images: 200}
  features: {kind: train_features, data: data, steps: 10, network: {channels: 8, features: 4}}
  widths:
    kind: sweep
    space:
      bandwidth: {choice: [0.05, 0.5, 0.9]}
      steps: {choice: [1, 2]}
    jobs:
      flow: {kind: analytic_flow, data: data, bandwidth: "${bandwidth}"}
      quality:
        {kind: evaluate, model: flow, data: data, features: features, samples: 50,
         solver: {kind: euler, steps: "${steps}"}}
    minimize: quality.fid
    parallel: 2
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> str:
    """A private Ray with two CPUs, and one storage for all tests."""
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, namespace=NAMESPACE,
        log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield str(tmp_path_factory.mktemp("store"))
    ray.shutdown()


def swept(storage: str, *overrides: str) -> tuple[SweepReport, str]:
    """The report of the sweep, and the state of its job."""
    result = submit(parse_pipeline(TEXT, "f.yaml", overrides, storage).pipeline)
    job = result.status.jobs["widths"]
    assert job.state in ("done", "reused"), job.message
    return Store(storage).load(job.artifact, SweepReport), job.artifact


def created(storage: str, report: SweepReport) -> dict[str, float]:
    """When each artifact of the trials was made."""
    store = Store(storage)
    ids = {one for trial in report.trials for one in trial.artifacts.values()}
    return {one: store.manifest(one).created for one in ids}


def test_a_grid_is_tried_and_made_once(storage):
    report, artifact = swept(storage)
    assert [trial.values for trial in report.trials] == [
        {"bandwidth": width, "steps": steps} for width in (0.05, 0.5, 0.9) for steps in (1, 2)
    ]
    assert {trial.state for trial in report.trials} == {"done"}
    fids = [trial.metrics["quality.fid"] for trial in report.trials]
    assert fids[report.chosen] == min(fids)
    before = created(storage, report)
    assert len(before) == 3 + 6
    store = Store(storage)
    store.blobs.delete(f"artifacts/{artifact}")  # as if it had been killed before its end
    again, _ = swept(storage)
    assert again == report
    assert created(storage, again) == before


def test_optuna_searches_a_range_for_two_objectives(storage):
    report, _ = swept(
        storage,
        "jobs.widths.space.bandwidth={loguniform: [0.05, 0.9]}",
        "jobs.widths.space.steps={randint: [1, 3]}",
        "jobs.widths.search={kind: optuna, trials: 4}",
        "jobs.widths.minimize=",
        "jobs.widths.pareto=[quality.fid, quality.nfe]",
    )
    assert len(report.trials) == 4
    assert all(0.05 <= trial.values["bandwidth"] <= 0.9 for trial in report.trials)
    assert {trial.values["steps"] for trial in report.trials} <= {1, 2, 3}
    assert report.chosen is None
    assert 1 <= len(report.front) <= 4


STOPPED_EARLY = """\
name: halving
jobs:
  data: {kind: load_dataset, source: digits, max_images: 400}
  flow: {kind: analytic_flow, data: data, bandwidth: 0.1}
  pairs: {kind: generate_pairs, flow: flow, count: 400, solver: {kind: euler, steps: 4}}
  rates:
    kind: sweep
    space:
      rate: {choice: [3e-3, 1e-8, 1e-9]}      # the last two learn nothing
    jobs:
      student:
        kind: anneal_reflow
        pairs: pairs
        data: data
        network: {kind: mlp, width: 64}
        learning_rate: "${rate}"
        steps: 8000
        batch_size: 32
        score_every: 500
        score_samples: 300
        shared: SHARED
        workers: 1
      quality:
        {kind: evaluate, model: student, data: data, features: features, samples: 300,
         solver: {kind: euler, steps: 1}}
    minimize: quality.fid
    scheduler: {kind: asha, watch: student, grace_period: 500, reduction_factor: 2}
    parallel: 1
  features: {kind: train_features, data: data, steps: 10, network: {channels: 8, features: 4}}
"""


@pytest.mark.parametrize("shared", ["true", "false"])
def test_trials_that_fall_behind_are_stopped(storage, shared):
    text = STOPPED_EARLY.replace("SHARED", shared)
    if shared == "false":  # else the store would have them
        text = text.replace("batch_size: 32", "batch_size: 16")
    result = submit(parse_pipeline(text, "f.yaml", (), storage).pipeline)
    job = result.status.jobs["rates"]
    assert job.state == "done", job.message
    store = Store(storage)
    report = store.load(job.artifact, SweepReport)
    assert [trial.state for trial in report.trials] == ["done", "stopped", "stopped"]
    assert report.chosen == 0
    best, *others = report.trials
    assert [step for step, _ in best.scores] == list(range(0, 8001, 500))
    for trial in others:
        assert 500 <= trial.scores[-1][0] < 8000
        assert trial.scores[1][1] > best.scores[1][1]
        assert trial.artifacts == {}
    deadline = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray.available_resources()["CPU"] == 2  # what was stopped holds nothing


def test_optuna_learns_on_when_trials_are_stopped(storage):
    text = STOPPED_EARLY.replace("SHARED", "true").replace("steps: 8000", "steps: 4000")
    overrides = (
        "jobs.rates.space.rate={loguniform: [1e-9, 1e-2]}",
        "jobs.rates.search={kind: optuna, trials: 5}",
    )
    result = submit(parse_pipeline(text, "f.yaml", overrides, storage).pipeline)
    job = result.status.jobs["rates"]
    assert job.state == "done", job.message
    report = Store(storage).load(job.artifact, SweepReport)
    states = [trial.state for trial in report.trials]
    assert len(states) == 5
    assert set(states) == {"done", "stopped"}
    assert report.trials[report.chosen].state == "done"
    first = {trial.values["rate"]: dict(trial.scores)[500] for trial in report.trials}
    for trial in report.trials:
        if trial.state == "stopped":  # one that came before it was better
            assert first[trial.values["rate"]] > min(first.values())
            assert trial.metrics == {}


def test_a_training_may_take_every_cpu(storage):
    """Trials hold none themselves: a training of two workers would never start else."""
    text = STOPPED_EARLY.replace("shared: SHARED", "").replace("workers: 1", "workers: 2")
    overrides = (
        "jobs.rates.space.rate={choice: [1e-3, 3e-3]}",
        "jobs.rates.scheduler=",
        "jobs.rates.jobs.student.steps=20",
        "jobs.rates.parallel=2",
    )
    result = submit(parse_pipeline(text, "f.yaml", overrides, storage).pipeline)
    job = result.status.jobs["rates"]
    assert job.state == "done", job.message
    store = Store(storage)
    report = store.load(job.artifact, SweepReport)
    assert [trial.state for trial in report.trials] == ["done", "done"]
    assert {store.manifest(t.artifacts["student"]).engine["workers"] for t in report.trials} == {2}
