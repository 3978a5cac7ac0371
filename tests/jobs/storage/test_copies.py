"""Blobs of a remote storage on a node: which requests they take, and who is believed."""

import hashlib
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3 import counted_requests

from slimctl.jobs.base.artifacts import ShardFile
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage.blobs import RemoteBlobs
from slimctl.jobs.storage.copies import ENDING, own_folder
from slimctl.jobs.storage.store import AT_ONCE, Store

SHARDS = 40


def store_of(blobs: RemoteBlobs) -> Store:
    """A store of a process of its own: it knows nothing of what others read."""
    store = Store("/unused")
    store.blobs, store.uri = blobs.below(""), blobs.uri
    return store


def put_shards(blobs: RemoteBlobs) -> list[ShardFile]:
    found = []
    for number in range(SHARDS):
        name, data = f"pairs/p/shard-{number:06d}.safetensors", os.urandom(64)
        blobs.write(name, data)
        digest = hashlib.sha256(data).hexdigest()
        found.append(ShardFile(path=name, size=len(data), sha256=digest))
    return found


def test_a_shard_on_s3_takes_one_size_request_and_one_read(s3):
    """It took two size requests and that of the read, one shard after another."""
    shards = put_shards(s3)
    with counted_requests() as asked:
        paths = store_of(s3).shards(shards)
    assert Counter(method for method, _ in asked) == {"HEAD": SHARDS, "GET": SHARDS}
    assert len({path for _, path in asked}) == SHARDS
    for shard, path in zip(shards, paths, strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256
    with counted_requests() as asked:
        assert store_of(s3).shards(shards) == paths
    assert asked == [], "another process of the node finds them"


def test_eight_ranks_of_a_node_fetch_once(remote):
    """All of them ask for everything at the same time."""
    shards = put_shards(remote)
    ranks = [store_of(remote) for _ in range(8)]
    begin = threading.Barrier(len(ranks))

    def start(rank: Store) -> int:
        begin.wait(20)
        return len(rank.shards(shards))

    with ThreadPoolExecutor(len(ranks)) as pool:
        assert list(pool.map(start, ranks)) == [SHARDS] * len(ranks)
    assert len(remote._fs.reads) == SHARDS


def test_as_many_are_fetched_at_once_as_a_storage_wants(remote, monkeypatch):
    shards = put_shards(remote)[: 2 * AT_ONCE]
    together, read = threading.Barrier(AT_ONCE), RemoteBlobs.read

    def slow(blobs, name):
        together.wait(20)  # broken if fewer ask
        return read(blobs, name)

    monkeypatch.setattr(RemoteBlobs, "read", slow)
    assert len(store_of(remote).shards(shards)) == 2 * AT_ONCE


def test_a_copy_that_was_changed_is_fetched_again(remote):
    shards = put_shards(remote)[:1]
    (path,) = store_of(remote).shards(shards)
    before = path.stat()
    right = path.read_bytes()
    path.write_bytes(right[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert store_of(remote).shards(shards) == [path]
    assert path.read_bytes() == right
    marker = path.with_name(path.name + ENDING)
    marker.write_bytes(marker.read_bytes()[:-3])  # a process that was killed while it wrote
    assert store_of(remote).shards(shards) == [path]
    assert len(remote._fs.reads) == 2, "the second time the copy is compared, not fetched"


def test_what_the_storage_has_not_is_damage(remote):
    shards = put_shards(remote)
    remote.delete(shards[3].path)
    with pytest.raises(DamagedArtifact, match=f"{shards[3].path} is missing"):
        store_of(remote).shards(shards)
    remote.write(shards[3].path, b"short")
    with pytest.raises(DamagedArtifact, match="has 5 bytes instead of 64"):
        store_of(remote).shards(shards)
    remote.write(shards[3].path, bytes(64))
    with pytest.raises(DamagedArtifact, match="was not what it was"):
        store_of(remote).shards(shards)
    assert not remote.exists(shards[3].path)


def test_copies_are_kept_where_nobody_else_writes(tmp_path):
    open_to_all = tmp_path / "copies"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert own_folder(open_to_all).stat().st_mode & 0o777 == 0o700
    (tmp_path / "link").symlink_to(open_to_all)
    with pytest.raises(UserError, match="cannot be believed"):
        own_folder(tmp_path / "link")
