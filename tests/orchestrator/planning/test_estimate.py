from dataclasses import replace

import pytest

from slimctl.jobs.base.cluster import Work
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.link import expectations
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.estimate import Estimate, estimate, plan_json
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.plan import RunPlan, make_plan

TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  teacher: {kind: train_flow, data: data, network: {kind: song_unet, channels: 8}, steps: 10}
  pairs: {kind: generate_pairs, flow: teacher, count: 100, solver: {kind: rk45, tolerance: 1e-5}}
  more: {kind: generate_pairs, flow: teacher, count: 50, solver: {kind: rk45, tolerance: 1e-5}}
"""


@pytest.fixture
def found(tmp_path) -> tuple[RunPlan, Estimate]:
    pipeline = resolve(parse_pipeline(TEXT, "a.yaml", storage=str(tmp_path)).pipeline)
    graph = Graph.of(pipeline)
    plan = make_plan(pipeline, graph, Store(str(tmp_path)))
    facts, _ = expectations(pipeline.specs, graph.edges, graph.order)
    return plan, estimate(pipeline, graph, facts, plan, tflops=2.0)


def test_jobs_and_totals_add_up(found):
    plan, estimated = found
    data = plan_json(plan, estimated)
    jobs = {job["name"]: job for job in data["jobs"]}
    assert jobs["data"]["pflop"] is None
    macs = jobs["teacher"]["macs"]
    assert jobs["teacher"]["pflop"] == pytest.approx(6 * macs * 10 * 128 / 1e15)
    assert jobs["pairs"]["pflop"] == pytest.approx(2 * macs * 127 * 1000 / 1e15)
    total = sum(job["pflop"] or 0 for job in data["jobs"])
    assert data["estimate"]["pflop"] == pytest.approx(total)
    assert data["estimate"]["gpu_hours"] == pytest.approx(total * 1e15 / 2e12 / 3600)
    assert data["estimate"]["tflops"] == 2.0
    assert sum(job["gpu_hours"] or 0 for job in data["jobs"]) == pytest.approx(
        data["estimate"]["gpu_hours"]
    )
    assert estimated.assumptions() == [
        "rk45 at 1e-05 takes 127 evaluations a sample (pairs, more)",
        "1,000 pairs for 100: shards are made whole (shard_size) (pairs)",
        "1,000 pairs for 50: shards are made whole (shard_size) (more)",
    ]


def test_what_is_there_costs_nothing_again():
    work = {"a": Work(1, 1, 3e15), "b": Work(1, 1, 5e15)}
    partly = Estimate(work, frozenset({"b", "c"}), 1.0)
    assert (partly.pflop("a"), partly.gpu_hours("a")) == (3.0, 0.0)
    assert partly.gpu_hours("b") == pytest.approx(5e3 / 3600)
    assert partly.gpu_hours("c") is None
    assert partly.total_pflop == 5.0


def test_without_a_rate_there_are_no_hours(found):
    plan, estimated = found
    data = plan_json(plan, replace(estimated, tflops=None))
    assert {job["gpu_hours"] for job in data["jobs"]} == {None}
    assert data["estimate"]["gpu_hours"] is None
    assert data["estimate"]["pflop"] == pytest.approx(estimated.total_pflop)


def test_what_is_not_known_is_reported(tmp_path):
    text = """\
name: a
jobs:
  data: {kind: load_dataset, source: digits}
  oracle: {kind: analytic_flow, data: data}
  pairs: {kind: generate_pairs, flow: oracle, count: 10}
"""
    pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(tmp_path)).pipeline)
    graph = Graph.of(pipeline)
    plan = make_plan(pipeline, graph, Store(str(tmp_path)))
    facts, _ = expectations(pipeline.specs, graph.edges, graph.order)
    found = estimate(pipeline, graph, facts, plan, tflops=2.0)
    assert found.assumptions() == [
        "not counted, as their networks or images are not known yet (pairs)"
    ]
