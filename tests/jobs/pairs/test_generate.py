import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace

import pytest

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.pairs import generate as generate_module
from slimctl.jobs.pairs.generate import PairActor, generate
from slimctl.jobs.pairs.shards import PairRecipe, find_shard, shard_name, solve_shard, write_shard
from slimctl.models.solvers.spec import EulerSpec


@pytest.fixture
def recipe(make_dataset, make_analytic):
    flow = make_analytic(make_dataset())
    return PairRecipe("generate_pairs-ab", flow, EulerSpec(steps=3), 3, 4, 2)


@pytest.fixture
def actor(store, recipe, monkeypatch):
    monkeypatch.setattr(generate_module, "describe_device", lambda device: f"{device} of a test")
    made = PairActor(store, recipe, 1)
    assert made.ready()
    return made


@pytest.fixture
def context(store, recorder, tmp_path):
    return JobContext(
        "it", "generate_pairs-ab-10", store, {}, tmp_path, Cluster(2), reporter=recorder
    )


def test_an_actor_makes_a_shard_once(store, recipe, actor):
    record = actor.make(2)
    assert find_shard(store, recipe, 2) == record
    assert record.device == "cpu of a test"
    assert record.nfe_sum == 4 * 3
    written = store.blobs.local(record.file.path).stat().st_mtime_ns
    assert actor.make(2) == record
    assert store.blobs.local(record.file.path).stat().st_mtime_ns == written


def test_an_actor_makes_a_damaged_shard_again(store, recipe, actor):
    record = actor.make(0)
    store.blobs.write(record.file.path, b"x")
    again = actor.make(0)
    assert again.file == record.file
    assert store.blobs.size(record.file.path) == record.file.size


def test_a_shard_is_solved_while_another_is_written(store, recipe, actor, monkeypatch):
    """The first write ends only when the second shard is solved, and no two are solved at once."""
    solved, solving = Event(), []

    def solve(flow, recipe, shard, device, run, later):
        solving.append(shard)
        assert len(solving) == 1
        made = solve_shard(flow, recipe, shard, device, run, later)
        solving.remove(shard)
        if shard == 1:
            solved.set()
        return made

    def write(store, name, made):
        if name == shard_name(recipe, 0):
            assert solved.wait(30)
        return write_shard(store, name, made)

    monkeypatch.setattr(generate_module, "solve_shard", solve)
    monkeypatch.setattr(generate_module, "write_shard", write)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(actor.make, 0)
        second = threads.submit(actor.make, 1)
        assert {first.result(60).file.path, second.result(60).file.path} == {
            f"{shard_name(recipe, shard)}.safetensors" for shard in (0, 1)
        }


class Pool:
    """The pool's interface, with the actors in this process."""

    def __init__(self, actors, name, describe, leaving):
        self.actors = actors

    def run(self, items, on_done):
        for item in reversed(items):  # in no particular order
            on_done(item, self.actors[0].make(item))


@pytest.fixture
def no_ray(monkeypatch, actor):
    """Pools of one actor of this process; the sizes that were asked for."""
    sizes = []
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(kill=lambda _: None))
    monkeypatch.setattr(generate_module, "Pool", {int: Pool})
    monkeypatch.setattr(
        generate_module,
        "_start_actors",
        lambda _c, _r, size, _shards: sizes.append(size) or [actor] * size,
    )
    return sizes


def test_only_missing_shards_are_made(context, recipe, actor, no_ray, recorder):
    first = [actor.make(0), actor.make(1)]
    records = generate(context, recipe, 10, 8)
    assert no_ray == [1]
    assert records[:2] == first
    assert [record.file.path for record in records] == [
        f"{shard_name(recipe, number)}.safetensors" for number in range(3)
    ]
    assert recorder.said("log") == [{"message": "2 of 3 shards are there already"}]
    (progress,) = recorder.said("progress")
    assert (progress["done"], progress["total"]) == (10, 10)
    assert progress["metrics"] == {"nfe": 3.0}
    assert context.device_s == sum(record.seconds for record in records)
    assert context.engine["devices"] == ["cpu of a test"]


def test_nothing_is_started_for_nothing(context, recipe, actor, no_ray):
    for number in range(3):
        actor.make(number)
    assert len(generate(context, recipe, 12, 8)) == 3
    assert no_ray == []


def test_no_more_actors_than_shards_and_progress_adds_up(context, recipe, no_ray, recorder):
    generate(context, recipe, 22, 4)
    assert no_ray == [4]
    assert [details["done"] for details in recorder.said("progress")] == [4, 8, 12, 16, 20, 22]
