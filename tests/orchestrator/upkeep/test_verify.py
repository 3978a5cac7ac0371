import shutil

import pytest
from here import run_here
from safetensors.torch import load_file, save_file

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.storage.store import Store, sha256_of
from slimctl.orchestrator.upkeep.verify import verify_all, verify_artifact


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    storage = tmp_path_factory.mktemp("verify") / "store"
    assert set(run_here(storage).values()) == {""}
    return Store(str(storage))


def test_everything_is_read(store):
    found = {finding.name.split("-")[0]: finding for finding in verify_all(store, 3)}
    assert set(found) == {
        "load_dataset", "analytic_flow", "generate_pairs", "anneal_reflow", "runs/small",
    }  # fmt: skip
    assert not any(finding.problems for finding in found.values())
    assert found["generate_pairs"].rechecked
    assert not found["anneal_reflow"].rechecked
    held = sum(p.stat().st_size for p in store.blobs.root.rglob("*.safetensors"))
    assert sum(finding.bytes for finding in found.values()) == held


def test_pairs_of_another_seed_are_seen(store, tmp_path):
    """A wrong result whose checksums are all right: only making it again shows it."""
    shutil.copytree(store.blobs.root, tmp_path / "s")
    planted = Store(str(tmp_path / "s"))
    (artifact,) = planted.find("generate_pairs")
    handle = planted.load(artifact, PairSet)
    path = planted.blobs.local(handle.shards[0].path)
    x1 = load_file(path)["x1"]
    save_file({"x1": x1.flip(0).contiguous()}, path)
    shard = handle.shards[0].model_copy(update={"sha256": sha256_of(path)})
    changed = handle.model_copy(update={"shards": (shard, *handle.shards[1:])})
    manifest = planted.manifest(artifact)
    described = manifest.model_dump(include={"kind", "version", "spec", "inputs", "wall_s"})
    planted.commit(artifact, changed, planted.stage(), {**described, "device_s": 1.0})
    assert verify_artifact(planted, artifact).problems == ()
    problems = verify_artifact(planted, artifact, pairs=24).problems
    assert len(problems) == 8
    assert problems[0].startswith("pair 0 made again differs by ")
