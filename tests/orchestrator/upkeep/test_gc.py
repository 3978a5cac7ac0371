import shutil
import time

import pytest
from here import SMALL, run_here

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.upkeep.gc import delete_garbage, find_garbage


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    storage = tmp_path_factory.mktemp("gc") / "store"
    assert set(run_here(storage).values()) == {""}
    return storage


@pytest.fixture
def store(whole, tmp_path) -> Store:
    shutil.copytree(whole, tmp_path / "store")
    return Store(str(tmp_path / "store"))


def named(store: Store) -> dict[str, str]:
    return {garbage.name.split("-")[0]: garbage.why for garbage in find_garbage(store, 0.0)}


def test_what_a_run_refers_to_is_none(store):
    time.sleep(0.01)
    assert find_garbage(store, 0.0) == []


def test_without_its_run_everything_is(store):
    shutil.rmtree(store.blobs.root / "runs")
    assert set(named(store)) == {
        "artifacts/load_dataset", "artifacts/analytic_flow", "artifacts/generate_pairs",
        "artifacts/anneal_reflow",
    }  # fmt: skip
    delete_garbage(store, find_garbage(store, 0.0))
    assert store.find("") == []
    assert named(store) == {"pairs/generate_pairs": "no result refers to it"}
    delete_garbage(store, find_garbage(store, 0.0))
    assert store.blobs.names() == []


def test_what_is_young_stays(store):
    shutil.rmtree(store.blobs.root / "runs")
    store.blobs.write("work/x-1/latest.json", b"")
    assert find_garbage(store) == []


def test_leftovers_are_found(store):
    artifact = store.find("anneal_reflow")[0]
    store.blobs.write(f"work/{artifact}/checkpoint-1.safetensors", b"x")
    store.blobs.write("work/train_flow-zz/latest.json", b"x")
    store.blobs.write("tmp/stage-abc/half", b"x")
    store.blobs.write("tmp/probe", b"x")
    store.blobs.write("artifacts/train_flow-yy/weights.safetensors", b"x")
    time.sleep(0.01)
    assert named(store) == {
        f"work/{artifact.split('-')[0]}": "its artifact is finished",
        "work/train_flow": "no run refers to it",
        "tmp/stage": "left by a job that died",
        "tmp/probe": "left by a program that died",
        "artifacts/train_flow": "it was never finished",
    }
    delete_garbage(store, find_garbage(store, 0.0))
    assert named(store) == {}
    assert set(run_here(store.uri).values()) == {""}


def test_a_run_that_cannot_be_read_may_refer_to_anything(store):
    run_here(store.uri, SMALL.replace("seed: 3", "seed: 4"))
    for log in store.blobs.root.glob("runs/*/events/*/*.jsonl"):
        log.write_bytes(b"")
    time.sleep(0.01)
    assert find_garbage(store, 0.0) == []
