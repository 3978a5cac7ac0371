import json
import os
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimctl.jobs.base.artifacts import Dataset, FeatureNet, Flow
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage.store import MANIFEST, Manifest, Store
from slimctl.models.spec import ImageShape

SHARED_STORE = [HealthCheck.function_scoped_fixture]  # each example leaves it as it was

CAUSES = {
    "kind": "load_dataset",
    "version": 1,
    "spec": {"source": "digits", "size": None},
    "inputs": {},
    "wall_s": 1.5,
    "device_s": 3,
    "notes": ("careful",),
    "engine": {"threads": 1, "rate": float("nan")},
}
HANDLE = Dataset(
    image=ImageShape(channels=1, size=8), count=3, flip_valid=True, label_counts=(1, 2)
)


def put(store, artifact="load_dataset-ab", handle=HANDLE, **files):
    folder = store.stage()
    for name, data in (files or {"data": b"0123456789"}).items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(data)
    finished = store.commit(artifact, handle, folder, CAUSES)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    return finished


def manifest_path(store, artifact="load_dataset-ab"):
    return store.blobs.local(f"artifacts/{artifact}/{MANIFEST}")


def test_what_is_committed_is_loaded(store):
    handle = put(store)
    assert handle == HANDLE.model_copy(update={"id": "load_dataset-ab"})
    assert store.state("load_dataset-ab") == "done"
    assert store.load_any("load_dataset-ab") == handle
    assert store.load("load_dataset-ab", Dataset) == handle
    assert store.file(handle, "data").read_bytes() == b"0123456789"
    manifest = store.manifest("load_dataset-ab")
    assert manifest is not None
    assert (manifest.type, manifest.kind) == ("Dataset", "load_dataset")
    assert (manifest.spec, manifest.device_s) == (CAUSES["spec"], 3.0)
    assert manifest.files["data"].size == 10
    assert manifest.notes == ("careful",)


def test_files_may_lie_in_folders(store):
    handle = put(store, **{"a/b/c": b"deep", "d": b""})
    assert store.file(handle, "a/b/c").read_bytes() == b"deep"
    assert store.file(handle, "d").read_bytes() == b""
    assert store.state(handle.id) == "done"


def test_nothing_is_there_before_the_manifest(store, monkeypatch):
    write = type(store.blobs).write

    def killed(blobs, name, data):
        if name.endswith(MANIFEST):
            raise SystemExit
        write(blobs, name, data)

    monkeypatch.setattr(type(store.blobs), "write", killed)
    with pytest.raises(SystemExit):
        put(store)
    monkeypatch.undo()
    assert store.state("load_dataset-ab") == "absent"
    assert store.manifest("load_dataset-ab") is None
    assert store.find("") == []
    put(store)
    assert store.state("load_dataset-ab") == "done"


def test_an_absent_artifact_says_what_to_do(store):
    assert store.state("nothing") == "absent"
    with pytest.raises(DamagedArtifact, match="submit its pipeline"):
        store.load_any("nothing")
    with pytest.raises(DamagedArtifact, match="has no file data"):
        store.file(HANDLE.model_copy(update={"id": "nothing"}), "data")


def test_an_artifact_of_another_type_is_not_taken(store):
    put(store)
    with pytest.raises(DamagedArtifact, match="is a Dataset, not a Flow"):
        store.load("load_dataset-ab", Flow)


def test_a_committed_artifact_is_replaced_whole(store):
    put(store)
    changed = put(store, data=b"longer than before")
    assert store.state(changed.id) == "done"
    assert store.file(changed, "data").read_bytes() == b"longer than before"


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "a folder"])
def test_a_file_that_is_not_whole_damages_its_artifact(store, damage):
    handle = put(store)
    path = store.file(handle, "data")
    if damage in ("missing", "a folder"):
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    if damage in ("truncated", "longer"):
        os.truncate(path, 9 if damage == "truncated" else 11)
    assert store.state(handle.id) == "damaged"
    for reader in (store, Store(store.uri)):
        with pytest.raises(DamagedArtifact, match="data") as error:
            reader.file(handle, "data")
        assert error.value.where == handle.id
        assert "submit again" in error.value.fix
    if damage != "a folder":
        put(store)
        assert store.state(handle.id) == "done"


def test_a_flipped_bit_is_found_when_the_file_is_read(store):
    handle = put(store)
    path = store.file(handle, "data")
    path.write_bytes(b"0123456788")
    assert store.state(handle.id) == "done"  # of the right size
    with pytest.raises(DamagedArtifact, match="data was not what it was") as error:
        Store(store.uri).file(handle, "data")
    assert "submit again" in error.value.fix
    assert not path.exists()  # so that the next submission makes it again
    assert store.state(handle.id) == "damaged"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "Stone"},
        {"type": 3},
        {"handle": {}},
        {"handle": []},
        {"format": 2},
        {"created": None},
        {"files": {"data": {"size": "ten", "sha256": ""}}},
        {"surprise": 1},
        {"notes": ["other"]},
        {"wall_s": 2.0},
    ],
)
def test_a_manifest_that_was_changed_is_damaged(store, changes):
    put(store)
    path = manifest_path(store)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert store.state("load_dataset-ab") == "damaged"
    with pytest.raises(DamagedArtifact, match=r"artifact\.json"):
        store.load_any("load_dataset-ab")


def test_a_manifest_that_was_only_laid_out_anew_is_whole(store):
    handle = put(store)
    path = manifest_path(store)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert store.load_any(handle.id) == handle


def test_the_manifest_of_another_artifact_is_damaged(store):
    put(store)
    for name in ("data", MANIFEST):
        copied = store.blobs.read(f"artifacts/load_dataset-ab/{name}")
        store.blobs.write(f"artifacts/load_dataset-cd/{name}", copied)
    assert store.state("load_dataset-cd") == "damaged"


@settings(max_examples=250, deadline=None, suppress_health_check=SHARED_STORE)
@given(data=st.data())
def test_no_change_of_a_manifest_is_believed_or_a_traceback(store, data):
    handle = put(store)
    path = manifest_path(store)
    good = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "bytes"]))
    place = data.draw(st.integers(0, 599))
    assert len(good) > 600
    if kind == "flip":
        bit = data.draw(st.integers(0, 7))
        bad = good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :]
    elif kind == "cut":
        bad = good[:place]
    elif kind == "splice":
        end = place + data.draw(st.integers(0, 100))
        bad = good[:place] + data.draw(st.binary(max_size=30)) + good[end:]
    else:
        bad = data.draw(st.binary(max_size=200))
    path.write_bytes(bad)
    fresh = Store(store.uri)
    state = fresh.state(handle.id)
    assert state in ("damaged", "done")
    if state == "done":  # only where the JSON says the same
        assert json.loads(bad) == json.loads(good) or json.loads(bad)["sha256"] is None
        assert fresh.load_any(handle.id) == handle
    else:
        for call in (fresh.load_any, fresh.manifest, lambda name: fresh.load(name, Dataset)):
            with pytest.raises(DamagedArtifact):
                call(handle.id)
    path.write_bytes(good)


NAMES = st.text(max_size=20) | st.sampled_from(["../x", "/x", "", ".", "data", "a" * 300, "data/x"])


@settings(max_examples=100, deadline=None, suppress_health_check=SHARED_STORE)
@given(name=NAMES, size=st.integers())
def test_no_file_name_of_a_manifest_is_a_traceback(store, name, size):
    handle = put(store)
    path = manifest_path(store)
    fields = json.loads(path.read_text()) | {"sha256": None}
    fields["files"] = {name: {"size": size, "sha256": ""}}
    path.write_text(json.dumps(fields))
    is_file = name == "data" and size == 10
    assert Store(store.uri).state(handle.id) == ("done" if is_file else "damaged")
    with pytest.raises(DamagedArtifact):
        Store(store.uri).file(handle, name)


@pytest.mark.parametrize("artifact", ["../x", "/x", "a\0", "", "a" * 300, "tmp/x"])
def test_names_that_are_no_artifact(store, artifact):
    put(store)
    assert store.state(artifact) in ("absent", "damaged")
    with pytest.raises(DamagedArtifact):
        store.load_any(artifact)


def test_a_file_is_checked_once_per_process(store, monkeypatch):
    handle = put(store)
    store.file(handle, "data")
    monkeypatch.setattr("slimctl.jobs.storage.store.sha256_of", lambda _: pytest.fail("read again"))
    store.file(handle, "data")


def test_artifacts_are_found_by_the_beginning_of_their_id(store):
    for artifact in ("load_dataset-ab", "load_dataset-ac", "train_flow-ab"):
        put(store, artifact)
    (store.blobs.root / "artifacts" / "load_dataset-unfinished").mkdir()
    manifest_path(store, "load_dataset-ac").write_text("{")
    assert store.find("load_dataset-a") == ["load_dataset-ab", "load_dataset-ac"]
    assert store.find("train") == ["train_flow-ab"]
    assert len(store.find("")) == 3


def test_stores_travel_by_their_address(store):
    handle = put(store)
    other = pickle.loads(pickle.dumps(store))
    assert other.uri == store.uri
    assert other.load_any(handle.id) == handle


def test_work_is_kept_apart(store):
    store.work("train_flow-1").write("latest.json", b"{}")
    assert store.work("train_flow-1").exists("latest.json")
    assert not store.work("train_flow-2").exists("latest.json")
    assert store.state("train_flow-1") == "absent"


def test_a_store_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written") as error:
        Store(str(tmp_path / "file" / "store")).check_writable()
    assert "--storage" in error.value.fix
    fine = Store(str(tmp_path / "store"))
    fine.check_writable()
    assert fine.blobs.names() == []


def test_a_remote_store_mends_an_old_copy(remote, tmp_path):
    store = Store(str(tmp_path / "unused"))
    store.blobs, store.uri = remote, remote.uri
    handle = put(store)
    copy = store.file(handle, "data")
    assert copy.is_relative_to(tmp_path / "copies")
    copy.write_bytes(b"987654321x")  # what another bucket of that name held
    assert store.file(handle, "data").read_bytes() == b"0123456789"
    remote.write(f"artifacts/{handle.id}/data", b"012345678x")
    copy.write_bytes(b"987654321x")
    with pytest.raises(DamagedArtifact, match="was not what it was"):
        store.file(handle, "data")


def test_shards_are_part_of_a_pair_set(store, make_pairs, make_analytic, make_dataset):
    pairs = make_pairs(make_analytic(make_dataset()), count=8)
    assert store.state(pairs.id) == "done"
    shard = store.shard(pairs.shards[1])
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert store.state(pairs.id) == "damaged"
    shard.write_bytes(data[:-1] + b"\x7f")
    with pytest.raises(DamagedArtifact, match="shard-000001"):
        Store(store.uri).shard(pairs.shards[1])
    assert not shard.exists()
    assert store.state(pairs.id) == "damaged"


def test_every_handle_type_can_be_committed(store):
    image = ImageShape(channels=1, size=4, classes=2)
    net = FeatureNet(image=image, network={"a": [1, {"b": None}]}, dimensions=2, accuracy=1.0)
    finished = put(store, "train_features-1", net)
    assert store.load("train_features-1", FeatureNet) == finished
    assert isinstance(store.manifest("train_features-1"), Manifest)


def test_a_store_on_s3_is_the_same(s3, tmp_path):
    """Committed, loaded, found, damaged and reported as in a folder."""
    store = Store(s3.uri)
    store.blobs = s3
    store.check_writable()
    handle = put(store, data=b"0123456789", **{"deep/more": b"x"})
    assert store.state(handle.id) == "done"
    assert store.load(handle.id, Dataset) == handle
    assert store.file(handle, "deep/more").read_bytes() == b"x"
    assert store.find("load") == [handle.id]
    assert store.blobs.modified(f"artifacts/{handle.id}/data") is not None
    store.blobs.write(f"artifacts/{handle.id}/data", b"012345678x")
    fresh = Store(s3.uri)
    fresh.blobs = s3
    with pytest.raises(DamagedArtifact, match="was not what it was"):
        fresh.file(handle, "data")
    assert fresh.state(handle.id) == "damaged"
    store.blobs.write(f"artifacts/{handle.id}/{MANIFEST}", b"{")
    assert store.state(handle.id) == "damaged"
    store.blobs.delete(f"artifacts/{handle.id}/{MANIFEST}")
    assert store.state(handle.id) == "absent"
