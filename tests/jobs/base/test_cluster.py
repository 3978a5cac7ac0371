import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.cluster import Cluster, Needs, NodeSize, Range, Resources, range_mistake
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.pairs.generate import describe_shard
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

FEW = {"min": 1, "max": 3}


def training(**changes: object) -> AnnealReflow:
    return AnnealReflow(pairs="p", network=SongUNetSpec(channels=8), steps=3, **changes)


def test_a_range_starts_with_its_smallest_number():
    spec = training(workers=FEW, batch_size=12)
    assert spec.workers == Range(min=1, max=3)
    assert spec.layout(Cluster(cpus=8))[0] == 1
    assert spec.needs(Cluster(cpus=8)).cpus == 1
    assert list(spec.worker_counts()) == [1, 2, 3]
    assert list(training(workers=2).worker_counts()) == [2]
    assert list(training().worker_counts()) == []


def test_a_batch_is_split_evenly_whatever_the_number():
    with pytest.raises(ValidationError, match="over 3 workers; make it a multiple of 6"):
        training(workers=FEW, batch_size=128)


def test_pair_actors_start_with_the_smallest_number_too():
    pairs = GeneratePairs(flow="f", count=10_000, actors={"min": 2, "max": 6})
    assert pairs.needs(Cluster(cpus=8)).cpus == 2
    assert pairs.needs(Cluster(cpus=1)).cpus == 1
    assert pairs.needs(Cluster(cpus=1, gpus=8)).gpus == 2


@pytest.mark.parametrize("wrong", [{"min": 0, "max": 3}, {"min": 1}, {"min": 1, "max": 2, "x": 3}])
def test_a_range_has_two_positive_ends(wrong):
    with pytest.raises(ValidationError):
        training(workers=wrong)


def test_a_range_that_is_the_wrong_way_round():
    assert range_mistake(Range(min=3, max=2)) == "min 3 is larger than max 2"
    assert range_mistake(3) == range_mistake("auto") == range_mistake(Range(min=2, max=2)) == ""
    with pytest.raises(ValidationError, match="min 3 is larger than max 2"):
        training(workers={"min": 3, "max": 2})
    pairs = GeneratePairs(flow="f", count=10, actors={"min": 3, "max": 2})
    with pytest.raises(FieldError, match="min 3 is larger than max 2"):
        pairs.expect({"flow": Facts(ImageShape(channels=1, size=8))})


def test_as_many_pair_actors_start_as_the_range_allows(monkeypatch):
    """Those that find no place yet join when they do."""
    asked = []

    def generate(context, recipe, count, actors):
        asked.append(actors)
        raise InterruptedError

    monkeypatch.setattr("slimctl.jobs.pairs.generate.generate", generate)
    flow = Flow(id="f", source="data", image=ImageShape(channels=1, size=8))
    for actors in ({"min": 1, "max": 7}, 2, "auto"):
        spec = GeneratePairs(flow="f", count=100_000, actors=actors)
        context = JobContext("p", "generate_pairs-ab-100000", None, {"f": flow}, None, Cluster(3))
        with pytest.raises(InterruptedError):
            spec.run(context)
    assert asked == [7, 2, 3]


def test_a_shard_is_named_with_its_pairs():
    spec = GeneratePairs(flow="f", count=10, shard_size=50)
    recipe = spec._recipe("generate_pairs-ab-10", None, spec.solver, None)
    assert describe_shard(recipe, 3) == "shard 3 (pairs 150 to 199)"


@pytest.mark.parametrize(
    ("part", "room"),
    [
        (NodeSize(4, 1), 2 + 1),
        (NodeSize(0, 1), 4 + 1),
        (NodeSize(0.1, 0), 80 + 60 + 20),
        (NodeSize(8, 4), 1),
        (NodeSize(9, 0), 0),
        (NodeSize(0, 5), 0),
    ],
)
def test_how_many_parts_fit_on_the_nodes(part, room):
    cluster = Cluster.of([NodeSize(8, 4), NodeSize(6, 1), NodeSize(2)])
    assert cluster.room(part) == room
    assert str(cluster) == "1 x (8 CPUs and 4 GPUs), 1 x (6 CPUs and 1 GPU), 1 x (2 CPUs)"
    assert str(Cluster.of([NodeSize(64, 8)] * 2)) == "2 x (64 CPUs and 8 GPUs)"


HEAD = NodeSize(2)


def even(gpus: int) -> NodeSize:
    """A node with as many CPUs as GPUs."""
    return NodeSize(gpus, gpus)


@pytest.mark.parametrize(
    ("there", "resources", "nodes"),
    [
        ([HEAD], None, [HEAD]),
        ([HEAD], Resources(gpus=0), [HEAD]),
        ([HEAD], Resources(gpus=8), [HEAD, even(8)]),
        ([HEAD], Resources(gpus=8, gpus_per_node=3), [HEAD, *map(even, (2, 3, 3))]),
        ([HEAD, NodeSize(16, 4)], Resources(gpus=8), [HEAD, even(4), NodeSize(16, 4)]),
        ([NodeSize(16, 4)], Resources(gpus=4), [NodeSize(16, 4)]),
        ([NodeSize(16, 4)], Resources(gpus=2), [NodeSize(16, 4)]),
    ],
)
def test_a_cluster_with_the_gpus_that_are_expected(there, resources, nodes):
    expected = Cluster.of(there).expecting(resources)
    assert list(expected.nodes) == sorted(nodes)
    assert expected.gpus == sum(node.gpus for node in nodes)


def test_jobs_are_laid_out_for_gpus_that_are_expected():
    spec = training(batch_size=512)
    there = Cluster.of([HEAD])
    assert spec.needs(there) == Needs(2, 0, parts=2)
    assert spec.needs(there.expecting(Resources(gpus=8))) == Needs(8, 8, parts=8)
