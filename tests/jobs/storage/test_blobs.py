import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage import blobs as blobs_module
from slimctl.jobs.storage.blobs import LocalBlobs, RemoteBlobs, check_name, open_blobs

LEAVING = [
    "../x",
    "a/../../x",
    "a/..",
    "..",
    "/etc/passwd",
    "//x",
    "a\0b",
    "a" * 1001,
    "a/" * 501,
    "b" * 241,
    "x/" + "ä" * 121,
]


@pytest.fixture(params=["local", "remote", "s3", "below local", "below remote", "below s3"])
def blobs(request, tmp_path):
    where = request.param.split()[-1]
    found = LocalBlobs(tmp_path / "l") if where == "local" else request.getfixturevalue(where)
    return found.below("some/folder") if "below" in request.param else found


@pytest.fixture
def local(tmp_path):
    return LocalBlobs(tmp_path / "l")


def test_what_is_written_is_read(blobs):
    for name, data in {"a": b"", "b/c.bin": bytes(range(256)), "b/ü/d": b"x"}.items():
        assert not blobs.exists(name)
        assert blobs.size(name) is None
        blobs.write(name, data)
        assert blobs.read(name) == data
        assert blobs.size(name) == len(data)
        assert blobs.local(name).read_bytes() == data
    blobs.write("a", b"longer than before")
    blobs.write("b/c.bin", b"s")
    assert (blobs.read("a"), blobs.read("b/c.bin")) == (b"longer than before", b"s")
    assert blobs.local("b/c.bin").read_bytes() == b"s"


def test_names_and_folders_are_listed(blobs):
    for name in ("z", "b/2", "b/1", "b/deep/3", "bb/4"):
        blobs.write(name, b"x")
    assert blobs.names() == ["b/1", "b/2", "b/deep/3", "bb/4", "z"]
    assert blobs.names("b") == ["b/1", "b/2", "b/deep/3"]
    assert blobs.folders() == ["b", "bb"]
    assert blobs.folders("b") == ["deep"]
    assert blobs.below("b").names() == ["1", "2", "deep/3"]
    assert blobs.below("b").below("deep").names() == ["3"]


def test_nothing_is_listed_where_nothing_is(blobs):
    assert (blobs.names(), blobs.folders()) == ([], [])
    assert (blobs.names("none"), blobs.folders("none/deep")) == ([], [])
    assert blobs.below("none").names() == []


def test_a_blob_or_a_folder_is_deleted(blobs):
    for name in ("a", "b/1", "b/deep/2", "bb/3"):
        blobs.write(name, b"x")
    blobs.delete("a")
    blobs.delete("b")
    blobs.delete("never/was")
    assert blobs.names() == ["bb/3"]
    blobs.below("bb").delete("")
    assert blobs.names() == []


@pytest.mark.parametrize("name", ["none", "b/none", "b", "a/below a file"])
def test_what_is_not_there_is_not_found(blobs, name):
    blobs.write("a", b"x")
    blobs.write("b/c", b"x")
    assert blobs.size(name) is None
    with pytest.raises(FileNotFoundError):
        blobs.read(name)
    with pytest.raises(FileNotFoundError):
        blobs.local(name)


def test_a_file_is_moved_in(blobs, tmp_path):
    path = tmp_path / "made"
    path.write_bytes(b"made elsewhere")
    blobs.put_file(path, "a/b")
    assert blobs.read("a/b") == b"made elsewhere"
    assert not path.exists()


@pytest.mark.parametrize("name", LEAVING, ids=lambda name: name[:12].replace("\0", "0"))
def test_names_that_leave_the_storage_are_refused(blobs, name, tmp_path):
    (tmp_path / "x").write_bytes(b"outside")
    made = tmp_path / "made"
    made.touch()
    calls = [
        lambda: blobs.read(name),
        lambda: blobs.write(name, b"x"),
        lambda: blobs.size(name),
        lambda: blobs.names(name),
        lambda: blobs.delete(name),
        lambda: blobs.local(name),
        lambda: blobs.put_file(made, name),
        lambda: blobs.below(name).read("x"),
    ]
    for call in calls:
        with pytest.raises(DamagedArtifact, match="is not a name inside the storage"):
            call()
    assert (tmp_path / "x").read_bytes() == b"outside"
    assert made.exists()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300) | st.lists(st.sampled_from(["a", "..", ".", "", "/"])).map("/".join))
def test_no_accepted_name_leads_outside(name):
    try:
        check_name(name)
    except DamagedArtifact:
        return
    path = os.path.normpath(os.path.join("/root/storage", name))  # noqa: PTH118
    assert path == "/root/storage" or path.startswith("/root/storage/")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=260))
def test_no_name_makes_a_lookup_fail(tmp_path_factory, name):
    """Names come out of manifests: a damaged one must not end in an error of the system's."""
    found = LocalBlobs(tmp_path_factory.getbasetemp() / "empty")
    try:
        assert found.size(name) is None
    except DamagedArtifact:
        return
    with pytest.raises(FileNotFoundError):
        found.read(name)


@pytest.mark.parametrize("kept", [True, False])
def test_a_write_that_fails_leaves_nothing(local, monkeypatch, kept):
    if kept:
        local.write("a/b", b"before")

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        local.write("a/b", b"half of it")
    monkeypatch.undo()
    assert [path.name for path in (local.root / "a").iterdir()] == (["b"] if kept else [])
    if kept:
        assert local.read("a/b") == b"before"


def test_a_killed_write_leaves_nothing_that_is_seen(local, monkeypatch):
    """A kill runs no `finally`: the temporary file stays, but is no blob."""
    monkeypatch.setattr(blobs_module.Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(blobs_module.Path, "replace", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        local.write("a/b", b"x")
    monkeypatch.undo()
    assert len(list((local.root / "a").iterdir())) == 1
    assert local.names() == []
    assert local.size("a/b") is None


def other_disk(monkeypatch):
    """Makes a rename out of the folder `made` fail, as between two file systems."""
    replace = blobs_module.Path.replace

    def refusing(path, target):
        if "made" in path.name and not path.name.startswith("."):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    monkeypatch.setattr(blobs_module.Path, "replace", refusing)


def test_a_file_of_another_disk_is_copied(local, tmp_path, monkeypatch):
    path = tmp_path / "made"
    path.write_bytes(b"x" * 1000)
    other_disk(monkeypatch)
    local.put_file(path, "a/b")
    assert local.read("a/b") == b"x" * 1000
    assert not path.exists()
    assert [found.name for found in (local.root / "a").iterdir()] == ["b"]


def test_a_copy_that_fails_leaves_nothing(local, tmp_path, monkeypatch):
    path = tmp_path / "made"
    path.write_bytes(b"x")
    other_disk(monkeypatch)

    def half(source, target):
        target.write_bytes(b"")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs_module.shutil, "copyfile", half)
    with pytest.raises(OSError, match="No space left"):
        local.put_file(path, "a/b")
    assert list((local.root / "a").iterdir()) == []
    assert path.exists()


def test_concurrent_writers_leave_one_whole_blob(local):
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=local.write, args=("a", data)) for data in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert local.size("a") in (None, 100_000)
    assert local.read("a") in contents
    assert local.names() == ["a"]


def test_listing_while_another_process_deletes(local, monkeypatch):
    for number in range(3):
        local.write(f"{number}/a", b"x")
    scan = os.scandir

    def losing(path):
        if str(path).endswith("/1"):
            local.delete("1")
        return scan(path)

    monkeypatch.setattr(os, "scandir", losing)
    assert local.names() == ["0/a", "2/a"]


def test_a_remote_blob_is_fetched_once(remote):
    remote.write("a/b", b"one")
    for _ in range(3):
        assert remote.local("a/b").read_bytes() == b"one"
    assert len(remote._fs.reads) == 1
    remote.write("a/b", b"longer")
    assert remote.local("a/b").read_bytes() == b"longer"
    remote.write("a/b", b"LONGER")
    assert remote.local("a/b").read_bytes() == b"longer"  # of the same size
    assert remote.local("a/b", fresh=True).read_bytes() == b"LONGER"


def test_copies_of_remote_blobs_stay_in_their_folder(remote, tmp_path):
    remote.write("a/b", b"x")
    copy = remote.local("a/b")
    assert copy.is_relative_to(tmp_path / "copies")
    copy.write_bytes(b"y")
    assert remote.read("a/b") == b"x"


def test_any_uri_of_pyarrow_opens():
    found = open_blobs("mock:///")
    assert isinstance(found, RemoteBlobs)
    found.write("a", b"x")
    assert (found.read("a"), found.names(), found.size("b")) == (b"x", ["a"], None)
    assert isinstance(open_blobs(found.uri), RemoteBlobs)


@pytest.mark.parametrize("uri", ["{}/s", "file://{}/s"])
def test_paths_are_local(uri, tmp_path):
    found = open_blobs(uri.format(tmp_path))
    assert isinstance(found, LocalBlobs)
    assert found.uri == str(tmp_path / "s")


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = open_blobs("./s")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found.write("a", b"x")
    assert (tmp_path / "s" / "a").exists()


@pytest.mark.parametrize("uri", ["nonsense://x", "://", "s3:///x y", "http://x/y"])
def test_a_uri_that_nothing_opens_is_the_users_error(uri):
    with pytest.raises(UserError, match="cannot open storage"):
        open_blobs(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://me:canary@bucket/x",
        "s3://canary@bucket",
        "s3://bucket/x?secret_key=canary",
        "s3://bucket/x?access_key=canary&region=eu",
    ],
)
def test_a_uri_with_a_secret_is_refused_without_repeating_it(uri):
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY") as caught:
        open_blobs(uri)
    assert "canary" not in str(caught.value)
    assert "s3://bucket" in caught.value.where


def test_a_bucket_that_is_not_there_is_an_error_of_the_system(s3_environment):
    with pytest.raises(OSError, match="does not exist"):
        open_blobs("s3://nowhere/x").write("a", b"")


@pytest.mark.parametrize("uri", ["a\0b", "x" * 300, "/tmp/\ud800", "s3://bucket/a\0"])
def test_a_name_that_no_storage_can_have_is_the_users_error(uri):
    with pytest.raises(UserError, match="cannot be the name of a storage"):
        open_blobs(uri)


def test_a_file_uri_is_quoted_and_a_path_is_not(tmp_path):
    assert open_blobs(f"file://{tmp_path}/a%20b").uri == f"{tmp_path}/a b"
    assert open_blobs(f"{tmp_path}/a%20b").uri == f"{tmp_path}/a%20b"
