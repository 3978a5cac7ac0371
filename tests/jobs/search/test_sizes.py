import pytest

from slimctl.jobs.base.artifacts import Dataset, PairSet
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.subgraph import trial_specs
from slimctl.jobs.search.sizes import beyond, distance, latency_ms, latency_on, sizes_known
from slimctl.jobs.search.spec import Limit
from slimctl.models.metrics.cost import count_macs, count_parameters
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=8)
NETWORK = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1], "blocks": 1}
TEMPLATES = {
    "student": {"kind": "train_flow", "data": "data", "network": NETWORK, "steps": 1},
    "one_step": {"kind": "distill", "pairs": "pairs", "start": "student", "steps": 1,
                 "two_step_weight": 0},
    "quality": {"kind": "evaluate", "model": "one_step", "data": "data", "features": "features"},
    "flow": {"kind": "evaluate", "model": "student", "data": "data", "features": "features",
             "solver": {"kind": "euler", "steps": 5}},
    "outside": {"kind": "evaluate", "model": "teacher", "data": "data", "features": "features"},
}  # fmt: skip
HANDLES = {"data": Dataset(image=IMAGE, count=5, flip_valid=False)}
PAIRS = PairSet(image=IMAGE, count=5, shard_size=5, seed=0, generator_version=1, nfe=1.0)
LIMIT = Limit(max=100)


def sizes(*names: str) -> dict[str, float]:
    specs = trial_specs(TEMPLATES, {}, 0)
    return sizes_known(specs, HANDLES, dict.fromkeys(names, LIMIT))


def test_sizes_are_those_of_the_network_that_is_measured():
    network = parse_network(NETWORK)
    assert sizes("quality.parameters", "quality.macs") == {
        "quality.parameters": count_parameters(network.build(IMAGE)),
        "quality.macs": count_macs(network, IMAGE),
    }


def test_labels_count_only_where_the_network_takes_them():
    """Data has classes; students of unconditional pairs and flows that ask for none have not."""
    labelled = IMAGE.model_copy(update={"classes": 10})
    handles = {"data": Dataset(image=labelled, count=5, flip_valid=False), "pairs": PAIRS}
    student = {"kind": "anneal_reflow", "pairs": "pairs", "data": "data", "network": NETWORK}
    quality = {"kind": "evaluate", "data": "data", "features": "f"}
    templates = {
        "scored": {**student, "steps": 1, "score_every": 1},
        "plain": TEMPLATES["student"],
        "labelled": {**TEMPLATES["student"], "conditional": True},
        **{f"q_{name}": {**quality, "model": name, "solver": {"kind": "euler", "steps": 1}}
           for name in ("scored", "plain", "labelled")},
    }  # fmt: skip
    limits = {f"q_{name}.parameters": LIMIT for name in ("scored", "plain", "labelled")}
    found = sizes_known(trial_specs(templates, {}, 0), handles, limits)
    network = parse_network(NETWORK)
    without, with_labels = (count_parameters(network.build(image)) for image in (IMAGE, labelled))
    assert list(found.values()) == [without, without, with_labels]
    assert without < with_labels


def test_latency_is_measured_where_it_counts():
    asked = []

    def elsewhere(network, image):
        asked.append((network, image))
        return 2.0

    specs = trial_specs(TEMPLATES, {}, 0)
    limits = {"flow.latency_ms": LIMIT}
    assert sizes_known(specs, HANDLES, limits, elsewhere) == {"flow.latency_ms": 5 * 2.0}
    assert asked == [(parse_network(NETWORK), IMAGE)]
    assert latency_on(Cluster(cpus=2)) is latency_ms


def test_what_the_network_does_not_tell_is_left_out():
    assert sizes("quality.fid", "outside.parameters") == {}


def test_how_far_a_size_is_off():
    limits = {"a": Limit(max=100), "b": Limit(min=10)}
    assert beyond({"a": 99.0, "b": 11.0}, limits) == ""
    assert (
        beyond({"a": 1234.0, "b": 5.0}, limits)
        == "a is 1,234, not at most 100, b is 5, not at least 10"
    )
    assert distance({"a": 150.0, "b": 5.0}, limits) == pytest.approx(0.5 + 0.5)
