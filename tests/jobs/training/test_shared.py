"""Training in the process of the job, for specs that share it."""

import pytest
import torch

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.training import ray_train

MLP = {"kind": "mlp", "width": 8}


def settings(**changes):
    fields = {"data": "d", "network": MLP, "steps": 4, "batch_size": 64, "seed": 1}
    return TrainFlow.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("cluster", "needs"),
    [(Cluster(cpus=8), Needs(1, 0)), (Cluster(cpus=8, gpus=4), Needs(2, 1))],
)
def test_it_is_one_worker_in_a_shared_process(cluster, needs):
    assert settings(shared=True).placed(cluster) == "shared"
    assert settings(shared=True).layout(cluster)[0] == 1
    assert settings(shared=True).needs(cluster) == needs


@pytest.mark.parametrize(
    ("fields", "cluster", "placed"),
    [
        ({"workers": 1}, Cluster(cpus=8), "alone"),
        ({}, Cluster(cpus=1), "alone"),
        ({"batch_size": 8}, Cluster(cpus=8), "alone"),
        ({"workers": {"min": 1, "max": 1}}, Cluster(cpus=8), "alone"),
        ({}, Cluster(cpus=8), "own"),
        ({"workers": 2}, Cluster(cpus=8), "own"),
        ({"workers": {"min": 1, "max": 2}}, Cluster(cpus=8), "own"),
        ({"workers": 1}, Cluster(cpus=8, gpus=1), "own"),
        ({"workers": 1, "shared": False}, Cluster(cpus=8), "own"),
    ],
)
def test_one_worker_on_cpus_needs_no_ray_train(fields, cluster, placed):
    spec = settings(**fields)
    assert spec.placed(cluster) == placed
    assert spec.in_process(cluster) == (placed == "alone")


@pytest.mark.parametrize("shared", [True, "auto"])
def test_the_result_is_that_of_one_worker_of_ray_train(
    attempt, make_dataset, store, monkeypatch, shared
):
    data = make_dataset(count=12)
    of_ray_train = settings(workers=1, shared=False)
    assert attempt(of_ray_train, "train_flow-apart", data=data).failure is None

    def no_ray(*_):
        raise AssertionError("Ray Train was asked")

    monkeypatch.setattr(ray_train, "_fit", no_ray)
    spec = settings(shared=shared, workers=1, threads=1)
    assert attempt(spec, "train_flow-here", data=data).failure is None
    apart, here = (store.load_any(f"train_flow-{name}") for name in ("apart", "here"))
    assert store.file(here, here.file).read_bytes() == store.file(apart, apart.file).read_bytes()
    assert job_key(spec, {"d": data.id}) == job_key(settings(workers=1), {"d": data.id})


def test_its_errors_name_the_job(attempt, make_dataset, monkeypatch):
    def diverge(*_):
        return torch.tensor(float("nan"), requires_grad=True)

    monkeypatch.setattr(FlowMatching, "loss", diverge)
    done = attempt(settings(shared=True), data=make_dataset(count=12))
    assert (done.failure, done.where) == ("TrainingDiverged", "job 'it'")
    assert done.trace == ""
