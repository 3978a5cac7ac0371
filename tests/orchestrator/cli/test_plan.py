import json

import pytest

from slimctl.jobs.base.cluster import Cluster

pytestmark = pytest.mark.usefixtures("no_ray")


def test_plan_says_what_is_to_be_done(slimctl, pipeline_file, tmp_path, finish):
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
    monkeypatch.setattr(
        "slimctl.orchestrator.running.cluster.devices_here", lambda: Cluster(3, gpus)
    )
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
    priced = ("plan", file, "--tflops", 40, "--set", "price={gpu_hour: 2}")
    assert json.loads(slimctl(*priced, "--json").out)["estimate"]["cost"] == 2 * hours[0]
    assert f"cost: {2 * hours[0]:,.2f} USD at 2.00 USD a GPU-hour" in slimctl(*priced).out
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


def test_what_a_plan_assumes_names_a_group_once(slimctl, tmp_path):
    file = tmp_path / "seeds.yaml"
    file.write_text(
        "name: a\njobs:\n  data: {kind: load_dataset, source: digits}\n  flow: {kind: train_flow, "
        "data: data, network: {preset: cifar10-3.4m}, steps: 10}\n"
        "  many:\n    for_each: {seed: [1, 2, 3, 4, 5, 6]}\n    jobs:\n"
        '      pairs: {kind: generate_pairs, flow: flow, count: 100, seed: "${seed}"}\n'
    )
    said = slimctl("plan", file).out
    assert "shards are made whole (shard_size) (many.pairs x 6)" in said
    assumed = json.loads(slimctl("plan", file, "--json").out)["estimate"]["assumed"]
    assert any("many.seed=6.pairs" in line for line in assumed), "programs are reported every job"


def test_a_plan_for_gpus_that_are_not_up_yet(slimctl, tmp_path, monkeypatch):
    file = tmp_path / "train.yaml"
    file.write_text(
        "name: a\nresources: {gpus: 2}\njobs:\n  data: {kind: load_dataset, source: digits}\n"
        "  flow: {kind: train_flow, data: data, network: {preset: cifar10-3.4m}, steps: 100, "
        "batch_size: 512, workers: 8}\n"
    )
    monkeypatch.setenv("SLIMCTL_STORAGE", str(tmp_path / "store"))
    monkeypatch.setattr("slimctl.orchestrator.running.cluster.devices_here", lambda: Cluster(3))
    small = slimctl("plan", file)
    assert "GPU-hours at 40 TFLOP/s" in small.out
    assert "planned for 2 GPUs, of which 0 are here" in small.out
    where = f"{file}:5: warning: job 'flow' needs "
    assert f"{where}8 x (1 CPU and 1 GPU), of which 2 fit on the nodes: " in small.err
    large = slimctl("plan", file, "--expect-gpus", 8)
    assert "planned for 8 GPUs, of which 0 are here" in large.out
    assert large.err == ""
    none = slimctl("plan", file, "--expect-gpus", 0)
    assert "no GPU" in none.out
    assert f"{where}8 x (1 CPU), of which 3 fit on the nodes: 1 x (3 CPUs)" in none.err
    keys = [
        [job["key"] for job in json.loads(slimctl("plan", file, "--json", *words).out)["jobs"]]
        for words in ([], ["--expect-gpus", 8])
    ]
    assert keys[0] == keys[1], "what is expected is in no key"
    assert slimctl("submit", file, "--expect-gpus", -1).code == 2
