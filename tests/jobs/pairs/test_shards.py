import dataclasses
import json
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.pairs.shards import (
    PairRecipe,
    ShardRecord,
    find_shard,
    open_solve,
    pair_labels,
    pair_noise,
    read_pairs,
    shard_name,
    solve_shard,
    write_shard,
)
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.pixels import to_float
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec, HeunSpec, RK45Spec

CPU = torch.device("cpu")
SOLVERS = [EulerSpec(steps=5), HeunSpec(steps=4, last_step="euler"), RK45Spec(tolerance=1e-3)]


@pytest.fixture
def teacher(make_dataset, make_analytic):
    return make_analytic(make_dataset(count=9, classes=3), conditional=True)


@pytest.fixture
def make_recipe(teacher):
    def make(**changes):
        fields = {
            "series": "generate_pairs-ab",
            "flow": teacher,
            "solver": EulerSpec(steps=5),
            "seed": 3,
            "shard_size": 6,
            "batch_size": 3,
        }
        return PairRecipe(**fields | changes)

    return make


@pytest.fixture
def make_shards(store):
    """Solves and writes shards of a recipe; returns their bytes by number."""

    def make(recipe, numbers, folder=None):
        target = folder or store
        flow = open_flow(store, recipe.flow, CPU)
        for number in numbers:
            write_shard(
                target,
                shard_name(recipe, number),
                solve_shard(flow, recipe, number, CPU, open_solve(target, recipe, flow)),
            )
        return {n: target.blobs.read(f"{shard_name(recipe, n)}.safetensors") for n in numbers}

    return make


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.kind)
def test_shards_do_not_depend_on_which_are_made_and_in_what_order(
    make_recipe, make_shards, tmp_path, solver
):
    recipe = make_recipe(solver=solver)
    straight = make_shards(recipe, range(5))
    order = [3, 1, 4]
    random.Random(0).shuffle(order)
    others = make_shards(recipe, order, Store(str(tmp_path / "another")))
    assert all(others[number] == straight[number] for number in order)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.kind)
def test_a_shard_holds_the_solution_of_its_own_noise(store, make_recipe, make_shards, solver):
    recipe = make_recipe(solver=solver)
    make_shards(recipe, [2])
    x1 = load_file(store.blobs.local(f"{shard_name(recipe, 2)}.safetensors"))["x1"]
    index = torch.arange(12, 18)
    label = pair_labels(3, index, recipe.flow)
    flow = open_flow(store, recipe.flow, CPU)
    x0 = pair_noise(3, index, flow.image)
    expected = solve(recipe.solver, flow, x0, label)
    torch.testing.assert_close(x1.float(), expected.x1, rtol=2e-3, atol=2e-3)
    record = find_shard(store, recipe, 2)
    assert record.nfe_sum == float(expected.nfe.sum())
    assert (x1.shape, x1.dtype) == ((6, 1, 4, 4), torch.float16)


def test_pairs_of_a_closed_form_land_on_its_data_of_their_label(store, make_recipe, make_shards):
    recipe = make_recipe(solver=RK45Spec(tolerance=1e-4))
    make_shards(recipe, [0, 1])
    images, labels = load_dataset_tensors(store, recipe.flow.dataset)
    found = torch.cat(
        [
            load_file(store.blobs.local(f"{shard_name(recipe, n)}.safetensors"))["x1"].float()
            for n in (0, 1)
        ]
    )
    label = pair_labels(3, torch.arange(12), recipe.flow)
    distance = torch.cdist(found.flatten(1), to_float(images).flatten(1)) / 4
    nearest = distance.argmin(1)
    assert float(distance.min(1).values.max()) < 5e-3
    assert torch.equal(labels[nearest], label)
    assert len(nearest.unique()) > 3


def test_images_are_not_clipped(store, make_model, make_recipe, make_shards):
    recipe = make_recipe(flow=make_model(), solver=EulerSpec(steps=2))
    make_shards(recipe, [0])
    x1 = load_file(store.blobs.local(f"{shard_name(recipe, 0)}.safetensors"))["x1"]
    assert float(x1.abs().max()) > 1.0  # of a network that has learned nothing


def test_more_pairs_reuse_the_shards_that_are_there(store, teacher, make_pairs):
    def written(pairs):
        return [store.blobs.local(shard.path).stat().st_mtime_ns for shard in pairs.shards]

    twenty = make_pairs(teacher, count=20)
    before = written(twenty)
    fifty = make_pairs(teacher, count=50)
    assert len(fifty.shards) == 13
    assert fifty.shards[:5] == twenty.shards
    assert written(fifty)[:5] == before
    assert torch.equal(read_pairs(store, fifty)[:20], read_pairs(store, twenty))
    assert len(read_pairs(store, fifty)) == 50


@pytest.fixture
def found(store, make_recipe, make_shards):
    """A finished shard: its recipe and its record."""
    recipe = make_recipe()
    make_shards(recipe, [0])
    return recipe, find_shard(store, recipe, 0)


def test_a_record_round_trips(found):
    _, record = found
    assert ShardRecord.model_validate_json(record.model_dump_json()) == record
    assert record.device == "cpu"
    assert record.seconds > 0


def test_a_shard_without_a_record_does_not_exist(store, found):
    recipe, _ = found
    store.blobs.delete(f"{shard_name(recipe, 0)}.json")
    assert find_shard(store, recipe, 0) is None
    assert find_shard(store, recipe, 1) is None


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_shard_of_another_size_does_not_exist(store, found, size):
    recipe, record = found
    store.blobs.write(record.file.path, b"x" * size)
    assert find_shard(store, recipe, 0) is None
    store.blobs.delete(record.file.path)
    assert find_shard(store, recipe, 0) is None


def test_a_record_of_another_shard_does_not_count(store, found, make_shards):
    recipe, _ = found
    make_shards(recipe, [1])
    other = store.blobs.read(f"{shard_name(recipe, 1)}.json")
    store.blobs.write(f"{shard_name(recipe, 0)}.json", other)
    assert find_shard(store, recipe, 0) is None


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_damage_of_a_record_is_a_traceback(store, found, data):
    recipe, record = found
    good = record.model_dump_json().encode()
    place = data.draw(st.integers(0, 100))
    end = place + data.draw(st.integers(0, 40))
    bad = good[:place] + data.draw(st.binary(max_size=8)) + good[end:]
    store.blobs.write(f"{shard_name(recipe, 0)}.json", bad)
    again = find_shard(store, recipe, 0)
    assert again is None or again.file.path == record.file.path


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"null", b"{}", b'{"file": 3}', b'{"file": {}}', b"\xff", b"3"]
)
def test_a_record_that_is_none(store, found, record):
    recipe, _ = found
    store.blobs.write(f"{shard_name(recipe, 0)}.json", record)
    assert find_shard(store, recipe, 0) is None


@pytest.mark.parametrize("name", ["nfe_sum", "seconds"])
@pytest.mark.parametrize("value", [None, "many", float("nan"), float("inf"), [1]])
def test_a_record_without_numbers(store, found, name, value):
    recipe, record = found
    fields = json.loads(record.model_dump_json()) | {name: value}
    store.blobs.write(f"{shard_name(recipe, 0)}.json", json.dumps(fields).encode())
    assert find_shard(store, recipe, 0) is None


def test_damaged_pairs_are_not_read_and_made_again_as_they_were(store, teacher, make_pairs):
    pairs = make_pairs(teacher, count=10)
    whole = read_pairs(store, pairs)
    path = store.shard(pairs.shards[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match=r"shard-000001\.safetensors was not what it was"):
        read_pairs(Store(store.uri), pairs)
    assert store.state(pairs.id) == "damaged"
    again = make_pairs(teacher, count=10)
    assert again == pairs
    assert torch.equal(read_pairs(Store(store.uri), again), whole)


def test_recipes_are_frozen(make_recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_recipe().seed = 4
