import pytest

from slimctl.jobs.base.cluster import Cluster, NodeSize, Resources
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.fit import misfit_problems, misfits
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.plan import make_plan

TEXT = """
name: a
jobs:
  data: {kind: load_dataset, source: digits}
  flow: {kind: train_flow, data: data, network: {kind: mlp, width: 8}, steps: 9, WORKERS}
"""
SWEEP = """
name: a
jobs:
  data: {kind: load_dataset, source: digits}
  sizes:
    kind: sweep
    space: {workers: {choice: [1, 16]}}
    minimize: flow.parameters
    jobs:
      flow: {kind: train_flow, data: data, network: {kind: mlp, width: 8}, steps: 9,
             workers: "${workers}"}
"""
EIGHT = Cluster.of([NodeSize(8, 4)] * 2)


def looked_at(text, cluster, tmp_path):
    pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(tmp_path)).pipeline)
    plan = make_plan(pipeline, Graph.of(pipeline), Store(str(tmp_path)))
    return [str(one) for one in misfit_problems(pipeline, misfits(plan, cluster))]


@pytest.mark.parametrize(
    ("workers", "cluster"),
    [
        ("workers: auto", Cluster(cpus=1)),
        ("workers: 8, threads: 2", EIGHT),
        ("threads: 8", Cluster(cpus=8, gpus=1)),
        ("workers: 16", EIGHT.expecting(Resources(gpus=16))),
        ("workers: 16", Cluster.of(EIGHT.nodes, [(NodeSize(8, 4), 2)])),
    ],
)
def test_jobs_that_fit(tmp_path, workers, cluster):
    assert looked_at(TEXT.replace("WORKERS", workers), cluster, tmp_path) == []


@pytest.mark.parametrize(
    ("workers", "cluster", "words"),
    [
        ("workers: 4", Cluster(cpus=2), "4 x (1 CPU), of which 2 fit on the nodes: 1 x (2 CPUs)"),
        (
            "workers: 8, threads: 3",
            EIGHT,
            "8 x (3 CPUs and 1 GPU), of which 4 fit on the nodes: 2 x (8 CPUs and 4 GPUs)",
        ),
        ("workers: 16", Cluster.of(EIGHT.nodes, [(NodeSize(8, 4), 1)]), "of which 12 fit"),
    ],
)
def test_a_job_that_no_node_can_hold_is_named_with_the_numbers(tmp_path, workers, cluster, words):
    (said,) = looked_at(TEXT.replace("WORKERS", workers), cluster, tmp_path)
    assert said.startswith("a.yaml:5: job 'flow' needs ")
    assert words in said


def test_trials_of_a_search_are_looked_at_too(tmp_path):
    (said,) = looked_at(SWEEP, EIGHT, tmp_path)
    assert said.startswith("a.yaml:5: 'flow' of the trials of 'sizes' needs 16 x (2 CPUs and")
