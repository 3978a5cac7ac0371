import pytest
from pydantic import ValidationError

from slimctl.jobs.base.cluster import Cluster, Needs, NodeSize
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training.spec import check_network
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

NETWORK = {"kind": "song_unet", "channels": 8}


def settings(**changes):
    return TrainFlow.model_validate({"data": "d", "network": NETWORK, "steps": 9} | changes)


def distil(**changes):
    fields = {"pairs": "p", "start": "s", "guide": "s", "steps": 9}
    return Distill.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("fields", "cluster", "layout"),
    [
        ({}, Cluster(cpus=1), (1, 1)),
        ({}, Cluster(cpus=2), (2, 1)),
        ({}, Cluster(cpus=3), (2, 1)),
        ({}, Cluster(cpus=64), (4, 1)),
        ({"batch_size": 512}, Cluster(cpus=64), (8, 1)),
        ({"batch_size": 33}, Cluster(cpus=64), (1, 1)),
        ({"batch_size": 96}, Cluster(cpus=8), (3, 1)),
        ({"batch_size": 1}, Cluster(cpus=8), (1, 1)),
        ({}, Cluster(cpus=16, gpus=1), (1, 4)),
        ({}, Cluster(cpus=16, gpus=8), (2, 2)),
        ({"batch_size": 512}, Cluster(cpus=64, gpus=8), (8, 4)),
        ({"batch_size": 512}, Cluster(cpus=64, gpus=6), (4, 4)),
        ({"batch_size": 512}, Cluster.of([NodeSize(64, 8)] * 8), (8, 4)),
        ({"batch_size": 512, "workers": 64}, Cluster.of([NodeSize(64, 8)] * 8), (64, 4)),
        ({"batch_size": 6}, Cluster(cpus=8, gpus=8), (1, 1)),
        ({"workers": 4}, Cluster(cpus=1), (4, 1)),
        ({"workers": 2, "threads": 3}, Cluster(cpus=9), (2, 3)),
        ({"threads": 7}, Cluster(cpus=9, gpus=1), (1, 7)),
    ],
)
def test_workers_are_a_function_of_the_cluster_and_the_spec(fields, cluster, layout):
    spec = settings(**fields)
    assert spec.layout(cluster) == layout
    workers, threads = layout
    assert spec.batch_size % workers == 0
    gpus = workers if cluster.gpus else 0
    assert spec.needs(cluster) == Needs(workers * threads, gpus, parts=workers)


@pytest.mark.parametrize(
    ("cluster", "cpus", "threads"),
    [
        (Cluster(cpus=8, gpus=4), 8, 2),
        (Cluster(cpus=6, gpus=4), 4, 1),
        (Cluster(cpus=2, gpus=4), 2, 1),
        (Cluster.of([NodeSize(2), NodeSize(8, 4)]), 8, 2),
        (Cluster(cpus=0, gpus=4), 0, 1),
    ],
)
def test_gpu_workers_take_no_more_cpus_than_their_node_has(cluster, cpus, threads):
    """4 GPUs with 8 CPUs asked for 16 CPUs, and waited for ever."""
    spec = settings(batch_size=256)
    assert spec.layout(cluster) == (4, threads)
    needs = spec.needs(cluster)
    assert needs == Needs(cpus=cpus, gpus=4, parts=4)
    assert cluster.room(needs.part) >= needs.parts


@pytest.mark.parametrize("two_step_batch", [None, 128, 6, 1, 50])
def test_every_batch_of_a_step_is_split_evenly(two_step_batch):
    for cpus in range(1, 9):
        workers, _ = distil(two_step_batch=two_step_batch).layout(Cluster(cpus=cpus))
        assert 128 % workers == 0
        assert (two_step_batch or 128) % workers == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workers": 3}, "batch_size 128 cannot be split evenly over 3 workers"),
        ({"batch_size": 10, "workers": 4}, "batch_size 10 cannot be split"),
        ({"adam_betas": (0.9, 1.0)}, "less than 1"),
        ({"adam_betas": (-0.1, 0.9)}, "greater than or equal to 0"),
        ({"adam_betas": (0.9,)}, "required"),
        ({"learning_rate": 0}, "greater than 0"),
        ({"gradient_clip": 0}, "greater than 0"),
        ({"ema_decay": 1}, "less than 1"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"workers": 0}, "greater than or equal to 1"),
        ({"decay": "linear"}, "'constant' or 'cosine'"),
        ({"network": {"kind": "song_unet"}}, "channels"),
    ],
)
def test_settings_that_cannot_be(fields, words):
    with pytest.raises(ValidationError, match=words):
        settings(**fields)


def test_the_fresh_batch_must_split_too():
    with pytest.raises(ValidationError, match="two_step_batch 6 cannot be split evenly over 4"):
        distil(two_step_batch=6, workers=4)
    assert distil(two_step_batch=6, workers=2).layout(Cluster(cpus=1)) == (2, 1)


def test_a_network_that_cannot_serve_the_images():
    spec = parse_network({"kind": "song_unet", "channels": 4, "channel_multipliers": [1] * 5})
    with pytest.raises(FieldError) as error:
        check_network(spec, ImageShape(channels=1, size=8))
    assert error.value.field == "network"
    assert error.value.what == "images of 8 x 8 px cannot be halved 4 times"
    assert error.value.fix == "give at most 4 channel_multipliers, one per level"
    check_network(spec, ImageShape(channels=1, size=16))


def test_a_classifier_is_checked_alike():
    with pytest.raises(FieldError, match="at least 2 classes"):
        check_network(ClassifierSpec(), ImageShape(channels=1, size=8))
