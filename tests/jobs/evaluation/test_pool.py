"""An evaluation by several actors beside the same by one process."""

import random
import sys
from types import SimpleNamespace

import pytest
import torch

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.cluster import Cluster, Needs, NodeSize, Range
from slimctl.jobs.evaluation import draws, pool, quality, shards
from slimctl.jobs.evaluation.shards import shards_of
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.pairs.pool import Life
from slimctl.models.metrics import straightness

SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}
TIMES = {"latency_ms", "latency_p90_ms", "latency_quiet", "id"}
SAMPLES, DRAWS = 230, 2
SHARDS = 2 * 6
"""Of 40 samples, but for the last one of a draw."""


def settings(**changes):
    fields = {
        "model": "m", "data": "d", "features": "f", "samples": SAMPLES, "draws": DRAWS,
        "batch_size": 20, "manifold_samples": 100, "seed": 3,
        "solver": {"kind": "euler", "steps": 2},
    }  # fmt: skip
    return Evaluate.model_validate(fields | changes)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SAMPLES", 40)
    monkeypatch.setattr(draws, "NEAREST_SAMPLES", 70)
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    monkeypatch.setattr(straightness, "MEASURED", 16)


@pytest.fixture
def inputs(run_job, make_dataset, make_model):
    data = make_dataset(count=120, classes=3)
    training = TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0)
    return {
        "model": make_model(Flow, label_counts=(1, 1, 1)),
        "data": data,
        "features": run_job(training, data=data),
    }


@pytest.fixture
def drawn(monkeypatch):
    """The shards that were drawn, in their order."""
    numbers, draw = [], draws.draw_shard

    def noted(evaluation, opened, shard, seen):
        numbers.append(shard.number)
        return draw(evaluation, opened, shard, seen)

    monkeypatch.setattr(quality, "draw_shard", noted)
    monkeypatch.setattr(pool, "draw_shard", noted)
    return numbers


@pytest.fixture
def made(attempt, store, inputs):
    """`made(name, spec)`: the report of an evaluation on 8 CPUs, under an address of that name."""

    def run(name, spec, **others):
        done = attempt(spec, f"evaluate-{name}", cpus=8, **inputs | others)
        assert done.failure is None, done
        return store.load_any(f"evaluate-{name}")

    return run


class HerePool:
    """The pool's interface, with the actors in this process, in no particular order."""

    def __init__(self, actors, name, describe, leaving=str):
        self.actors, self.describe = actors, describe

    def run(self, items, on_done):
        order = random.Random(0).sample(items, len(items))
        for number, item in enumerate(order):
            assert self.describe(item)
            on_done(item, self.actors[number % len(self.actors)].make(item))

    def there(self):
        return self.actors


@pytest.fixture
def here(monkeypatch):
    """Actors of this process; those that were started and those that were ended, by name."""
    started, ended = [], []

    def start(cls, part, size, *arguments):
        made = [cls(*arguments) for _ in range(size)]
        assert all(actor.ready() == Life.here() for actor in made)
        started.append((part, size))
        return made

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(kill=ended.append))
    monkeypatch.setattr(pool, "Pool", {int: HerePool})
    monkeypatch.setattr(pool, "start_actors", start)
    monkeypatch.setattr(pool, "describe_device", lambda device: f"{device} of a test")
    monkeypatch.setattr(Life, "here", classmethod(lambda cls: cls("node", 1)))
    return started


def figures(report):
    """All that is not a time."""
    return {name: value for name, value in report.model_dump().items() if name not in TIMES}


def test_any_number_of_actors_measures_what_one_process_does(made, store, here, recorder, drawn):
    alone = figures(made("alone", settings()))
    assert drawn == list(range(SHARDS))
    assert here == []
    recorder.events.clear()
    together = made("pool", settings(actors=3))
    assert here == [(NodeSize(1), 3)]
    assert sorted(drawn[SHARDS:]) == list(range(SHARDS))
    assert figures(together) == alone  # to the last digit
    assert (store.file(together, "samples.png")).read_bytes()[1:4] == b"PNG"
    assert store.manifest("evaluate-pool").engine["devices"] == ["cpu of a test"]
    told = [event["done"] for event in recorder.said("progress")]
    assert told == sorted(told)
    assert (len(told), told[-1]) == (SHARDS, SAMPLES * DRAWS)
    assert store.work("evaluate-pool").names() == []


def test_a_generator_is_measured_by_actors_too(made, make_model, here):
    model = make_model(Generator, label_counts=(1, 1, 1))
    alone = made("alone", settings(solver=None), model=model)
    together = made("pool", settings(solver=None, actors=2), model=model)
    assert len(here) == 1
    assert figures(together) == figures(alone)


@pytest.mark.parametrize("actors", ["auto", 3])
def test_finished_shards_outlive_an_attempt(
    made, attempt, store, inputs, here, drawn, monkeypatch, actors
):
    alone = figures(made("alone", settings()))
    drawn.clear()
    write = draws.write_drawn

    def full(evaluation, shard, *rest):
        if len(drawn) == 6:
            raise OSError("disk full")
        return write(evaluation, shard, *rest)

    for module in (quality, pool):
        monkeypatch.setattr(module, "write_drawn", full)
    spec = settings(actors=actors)
    assert attempt(spec, "evaluate-again", cpus=8, **inputs).retry
    finished = set(drawn[:5])
    assert len(drawn) == 6
    broken = min(finished)
    store.blobs.write(f"work/evaluate-again/samples/shard-{broken:06d}.safetensors", b"cut")
    drawn.clear()
    for module in (quality, pool):
        monkeypatch.setattr(module, "write_drawn", write)
    again = made("again", spec)
    assert set(drawn) == set(range(SHARDS)) - finished | {broken}
    assert figures(again) == alone


def test_one_shard_is_never_written(run_job, store, inputs, monkeypatch):
    monkeypatch.setattr(quality, "write_drawn", None)
    report = run_job(settings(samples=40, draws=1), **inputs)
    assert report.samples == 40


def test_a_shard_is_whole_batches_of_one_draw():
    made = shards_of(SAMPLES, DRAWS, 20)
    assert len(made) == SHARDS
    assert [(each.draw, each.first, each.count) for each in made[4:8]] == [
        (0, 160, 40), (0, 200, 30), (1, 0, 40), (1, 40, 40),
    ]  # fmt: skip
    assert [each.count for each in shards_of(100, 1, 64)] == [64, 36]


@pytest.mark.parametrize(
    ("fields", "cluster", "placed", "needs"),
    [
        ({}, Cluster(cpus=8), "shared", Needs(1, 0)),
        ({"actors": 4}, Cluster(cpus=8), "own", Needs(4, 0, parts=4)),
        ({"actors": 40}, Cluster(cpus=8), "own", Needs(8, 0, parts=8)),
        ({"actors": 40}, Cluster(cpus=64), "own", Needs(SHARDS, 0, parts=SHARDS)),
        ({}, Cluster(cpus=8, gpus=1), "shared", Needs(4, 1)),
        ({}, Cluster(cpus=64, gpus=8), "own", Needs(32, 8, parts=8)),
        ({"samples": 40, "draws": 1}, Cluster(cpus=64, gpus=8), "shared", Needs(4, 1)),
        ({"actors": Range(min=2, max=6)}, Cluster(cpus=64, gpus=8), "own", Needs(8, 2, parts=2)),
        ({"actors": 1}, Cluster(cpus=64, gpus=8), "shared", Needs(4, 1)),
    ],
)
def test_what_decides_is_the_work(fields, cluster, placed, needs):
    spec = settings(**fields)
    assert (spec.placed(cluster), spec.needs(cluster)) == (placed, needs)


def test_samples_that_are_not_finite_are_named(attempt, inputs, monkeypatch, drawn):
    draw = draws.Sampler.draw

    def broken(sampler, seed, count, batch_size, first=0, label=None):
        for batch in draw(sampler, seed, count, batch_size, first, label):
            if first == SAMPLES + 40:
                batch.images[0, 0, 0, 0] = torch.nan
            yield batch

    monkeypatch.setattr(draws.Sampler, "draw", broken)
    done = attempt(settings(), **inputs)
    assert "samples 270.. hold NaN or infinity" in done.what
    assert drawn == list(range(8))  # 6 of the first draw, and the second of the second
