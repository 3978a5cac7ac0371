import pytest
from growth import growth

from slimctl.jobs.base.cluster import Cluster, Resources
from slimctl.jobs.base.memory import GIB, in_gib
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.link import expectations
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.memory import device_limit, memory_plan
from slimctl.orchestrator.planning.plan import plan

TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  teacher:
    {kind: train_flow, data: data, network: {kind: song_unet, channels: 16, blocks: 1}, steps: 10}
  pairs: {kind: generate_pairs, flow: teacher, count: 100}
"""


def made(tmp_path, limit=None, text=TEXT):
    pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(tmp_path)).pipeline)
    graph = Graph.of(pipeline)
    facts, _ = expectations(pipeline.specs, graph.edges, graph.order)
    return pipeline, memory_plan(pipeline, graph, facts, Cluster(cpus=8, gpus=1), limit)


def test_every_job_that_computes_on_a_device_has_its_memory(tmp_path):
    _, found = made(tmp_path)
    assert set(found.jobs) == {"teacher", "pairs"}
    data = found.as_json("teacher")
    assert data["bytes"] == sum(data["parts"].values())
    assert (data["at_once"], data["fits"]) == (128, None)
    assert found.as_json("data") is None


def test_a_job_that_is_cut_to_fit_is_no_mistake(tmp_path):
    whole = made(tmp_path)[1].jobs["teacher"]
    pipeline, found = made(tmp_path, whole.lasting + whole.parts["activations"] // 8)
    assert found.jobs["teacher"].samples < 128
    assert found.as_json("teacher")["fits"]
    assert [one.what for one in found.warnings(pipeline) if "teacher" in one.what] == []


def test_weights_that_no_device_holds_are_a_mistake(tmp_path):
    whole = made(tmp_path)[1].jobs["teacher"]
    pipeline, found = made(tmp_path, whole.lasting - 1)
    (mistake,) = found.mistakes(pipeline)
    assert mistake.path == ("jobs", "teacher", "network")
    assert mistake.what == (
        f"the weights of job 'teacher' and what stays with them take {in_gib(whole.lasting)}, "
        f"before a single sample; a device has {in_gib(whole.lasting - 1)}"
    )
    forecast = plan(pipeline, cluster=Cluster(cpus=8, gpus=1), device_bytes=whole.lasting - 1)
    assert forecast.missing == [mistake]
    with pytest.raises(PipelineProblems, match=r"a\.yaml:5: .*before a single sample"):
        pipeline.tell(forecast.missing)


def test_a_sample_that_does_not_fit_is_a_warning(tmp_path):
    whole = made(tmp_path)[1].jobs["teacher"]
    pipeline, found = made(tmp_path, whole.lasting + 1)
    assert found.mistakes(pipeline) == []
    said = [str(one) for one in found.warnings(pipeline)]
    assert any("a.yaml:5: job 'teacher' takes about" in line for line in said)
    assert any("with 1 sample at once; a device has" in line for line in said)


def test_the_pipeline_says_the_memory_of_gpus_elsewhere():
    assert device_limit(None, 7) == 7
    assert device_limit(Resources(gpus=8), None) is None
    assert device_limit(Resources(gpus=8, gpu_memory_gib=80), 7) == 80 * GIB


def test_ten_thousand_trainings_are_planned_in_proportion(tmp_path):
    def known(count: int):
        text = (
            TEXT
            + f"""\
  many:
    for_each: {{seed: {list(range(count))}}}
    jobs:
      flow: {{kind: train_flow, data: data, seed: '${{seed}}', steps: 1, batch_size: 32,
        network: {{kind: song_unet, channels: 16, blocks: 1}}}}
"""
        )
        pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(tmp_path)).pipeline)
        graph = Graph.of(pipeline)
        return pipeline, graph, expectations(pipeline.specs, graph.edges, graph.order)[0]

    made = {count: known(count) for count in (1, 1000, 10_000)}

    def plan(count: int) -> None:
        found = memory_plan(*made[count], Cluster(cpus=8, gpus=1), 80 * GIB)
        assert len(found.jobs) == count + 2

    plan(1)  # traces the network, once
    assert growth(plan, 1000, 10_000) < 3
