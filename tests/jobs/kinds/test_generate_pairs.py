import pytest
import torch
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.pairs.shards import read_pairs
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation
from slimctl.models.pixels import to_float
from slimctl.models.spec import ImageShape

PLAIN = ImageShape(channels=1, size=4)


def spec(**changes):
    fields = {"flow": "t", "count": 10, "shard_size": 4, "seed": 5, "solver": {"kind": "rk45"}}
    return GeneratePairs.model_validate(fields | changes)


def test_pairs_of_a_flow(run_job, store, make_dataset, make_analytic):
    data = make_dataset(count=6, classes=2, flip=False)
    flow = make_analytic(data, conditional=True)
    asked = spec()
    pairs = run_job(asked, flow=flow)
    assert isinstance(pairs, PairSet)
    assert pairs.id.endswith("-10")
    assert (pairs.count, pairs.shard_size, pairs.seed) == (10, 4, 5)
    assert (pairs.image, pairs.label_counts, pairs.flip_valid) == (flow.image, (3, 3), False)
    assert pairs.generator_version == GENERATOR_VERSION
    assert len(pairs.shards) == 3
    assert 8 < pairs.nfe < 500
    x1 = read_pairs(store, pairs).float()
    real = to_float(load_dataset_tensors(store, data)[0])
    nearest = torch.cdist(x1.flatten(1), real.flatten(1)).min(1).values / 4
    assert float(nearest.max()) < 5e-3
    known = asked.expect({"flow": Facts(flow.image, flip_valid=False)})
    assert known == Facts(flow.image, 10, flip_valid=False)


def test_more_pairs_begin_with_those_that_are_there(run_job, store, make_dataset, make_analytic):
    flow = make_analytic(make_dataset())
    few = run_job(spec(count=5), flow=flow)
    more = run_job(spec(count=13), flow=flow)
    assert few.id.rpartition("-")[0] == more.id.rpartition("-")[0]
    assert more.shards[:2] == few.shards
    assert torch.equal(read_pairs(store, more)[:5], read_pairs(store, few))
    other = run_job(spec(count=5, seed=6), flow=flow)
    assert not set(other.shards) & set(more.shards)


@pytest.mark.parametrize(
    ("shard_size", "batch_size", "expected"),
    [(1000, None, 500), (300, None, 300), (1001, None, 143), (997, None, 1), (1000, 250, 250)],
)
def test_a_batch_divides_its_shard(shard_size, batch_size, expected):
    assert spec(shard_size=shard_size, batch_size=batch_size)._batch() == expected


@pytest.mark.parametrize(("shard_size", "batch_size"), [(4, 3), (4, 8)])
def test_a_batch_that_does_not_is_refused(
    refused, attempt, make_dataset, make_analytic, shard_size, batch_size
):
    uneven = spec(shard_size=shard_size, batch_size=batch_size)
    error = refused(uneven, flow=Facts(PLAIN))
    assert error.field == "batch_size"
    assert f"batch_size {batch_size} does not divide shard_size {shard_size}" in error.what
    outcome = attempt(uneven, flow=make_analytic(make_dataset()))
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', batch_size")


@pytest.mark.parametrize("fields", [{"count": 0}, {"shard_size": 0}, {"actors": 0}, {"seed": -1}])
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize(
    ("fields", "cluster", "needs"),
    [
        ({"count": 100}, Cluster(cpus=4), Needs(4, 0, parts=4)),
        ({"count": 5}, Cluster(cpus=4), Needs(2, 0, parts=2)),
        ({"count": 100, "actors": 3}, Cluster(cpus=4), Needs(3, 0, parts=3)),
        ({"count": 100, "actors": 9}, Cluster(cpus=4), Needs(4, 0, parts=4)),
        ({"count": 100}, Cluster(cpus=16, gpus=8), Needs(0, 8, parts=8)),
        ({"count": 1}, Cluster(cpus=0), Needs(1, 0, parts=1)),
    ],
)
def test_it_takes_what_it_can_use(fields, cluster, needs):
    assert spec(**fields).needs(cluster) == needs


EDM = Parameterisation(prediction="edm", schedule=EDMSchedule())


def test_pairs_do_not_share_a_norm(refused):
    error = refused(spec(solver={"kind": "rk45", "norm": "batch"}), flow=Facts(PLAIN))
    assert error.field == "solver.norm"
    assert "depend on its batch mates" in error.what


def test_all_that_is_refused_is_reported_and_the_images_stay_known(refused):
    odd = {"batch_size": 3, "shard_size": 10, "actors": {"min": 3, "max": 2}}
    error = refused(spec(solver={"kind": "rk45", "norm": "batch"}, **odd), flow=Facts(PLAIN))
    assert [one.field for one in error.each] == ["batch_size", "actors", "solver.norm"]
    assert error.facts.image == PLAIN


def test_the_sampler_of_edm_is_for_denoisers(refused):
    asked = spec(solver={"kind": "edm_heun"})
    error = refused(asked, flow=Facts(PLAIN, flow=Parameterisation()))
    assert (error.field, error.fix) == ("solver", "use kind: heun, euler or rk45")
    assert "'t' is a flow that predicts velocities" in error.what
    assert asked.expect({"flow": Facts(PLAIN, flow=EDM)}).image == PLAIN
    assert asked.expect({"flow": Facts(PLAIN)}).image == PLAIN
    beyond = spec(solver={"kind": "edm_heun", "sigma_max": 100})
    error = refused(beyond, flow=Facts(PLAIN, flow=EDM))
    assert error.field == "solver.sigma_max"
    assert "sigma_max is 100, but 't' knows noise levels from 0.002 to 80" in error.what


def test_levels_of_the_sampler_that_cannot_be():
    with pytest.raises(ValidationError, match=r"sigma_min is 5\.0 and sigma_max is 2\.0"):
        spec(solver={"kind": "edm_heun", "sigma_min": 5, "sigma_max": 2})
