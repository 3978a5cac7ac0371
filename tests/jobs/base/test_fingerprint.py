import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from slimctl.jobs.base import fingerprint
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.base.fingerprint import (
    PublishedFile,
    content_of_files,
    require_checksum,
    require_file,
)


@pytest.fixture
def tree(tmp_path):
    """Two old files below a folder."""
    for name, text in {"cat/a.png": "one", "dog/a.png": "two"}.items():
        write(tmp_path / "tree" / name, text)
    return tmp_path / "tree"


def write(path, text, age_s=3600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    when = time.time() - age_s
    os.utime(path, (when, when))


def of(root):
    return content_of_files([path for path in root.rglob("*") if path.is_file()], root)


@pytest.fixture
def count_reads(monkeypatch):
    """How many files were read so far."""
    reads = []
    digest = fingerprint.hashlib.file_digest

    def counting(file, name):
        reads.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(fingerprint.hashlib, "file_digest", counting)
    return lambda: len(reads)


def test_the_place_of_a_tree_does_not_count(tree, tmp_path):
    first = of(tree)
    tree.rename(tmp_path / "elsewhere")
    assert of(tmp_path / "elsewhere") == first


def test_content_and_names_below_the_root_count(tree):
    seen = {of(tree)}
    write(tree / "cat" / "a.png", "onE")
    seen.add(of(tree))
    (tree / "dog").rename(tree / "fox")
    seen.add(of(tree))
    write(tree / "fox" / "b.png", "")
    seen.add(of(tree))
    assert len(seen) == 4


def test_which_content_has_which_name_counts(tree):
    first = of(tree)
    write(tree / "cat" / "a.png", "two")
    write(tree / "dog" / "a.png", "one")
    assert of(tree) != first


def test_a_single_file_counts_by_its_content_alone(tmp_path):
    for name in ("a.npz", "deep/b.npz"):
        write(tmp_path / name, "images")
    first, second = (
        content_of_files([tmp_path / n], tmp_path / n) for n in ("a.npz", "deep/b.npz")
    )
    assert first == second
    write(tmp_path / "a.npz", "image!")
    assert content_of_files([tmp_path / "a.npz"], tmp_path / "a.npz") != second


def test_the_order_in_which_files_are_named_does_not_count(tree):
    files = [path for path in tree.rglob("*") if path.is_file()]
    assert content_of_files(files, tree) == content_of_files(files[::-1], tree)


def test_an_unchanged_file_is_not_read_again(tree, count_reads):
    first = of(tree)
    assert count_reads() == 2
    assert of(tree) == first
    assert count_reads() == 2
    write(tree / "cat" / "a.png", "more", age_s=1800)
    assert of(tree) != first
    assert count_reads() == 3


def test_a_file_that_changed_just_now_is_read_again(tree, count_reads):
    """Two writes within one tick of the clock leave size and time the same."""
    path = tree / "cat" / "a.png"
    write(path, "new", age_s=0)
    stat = path.stat()
    first = of(tree)
    path.write_text("NEW")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert of(tree) != first
    assert count_reads() == 3


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"3", b'{"x": 5}', b'{"x": []}', b"null"]
)
def test_a_damaged_cache_is_made_anew(tree, count_reads, content):
    first = of(tree)
    cache = fingerprint._cache_file()
    names = [str(path) for path in tree.rglob("*.png")]
    cache.write_bytes(content.replace(b'"x"', json.dumps(names[0]).encode()))
    assert of(tree) == first
    assert count_reads() == 4
    assert set(json.loads(cache.read_text())) == set(names)


def test_a_cache_that_cannot_be_kept_costs_only_time(tree, monkeypatch, tmp_path, count_reads):
    first = of(tree)
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert of(tree) == first
    assert count_reads() == 4


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_of_files([tmp_path / "none"], tmp_path)


def test_names_are_bytes(tree):
    seen = {of(tree)}
    for name in (b"caf\xe9", b"caf\xea", "caf\u00e9".encode()):
        folder = os.fsencode(tree) + b"/" + name
        os.mkdir(folder)  # noqa: PTH102  (a name of bytes)
        write(Path(os.fsdecode(folder)) / "a.png", "three")
        seen.add(of(tree))
    assert len(seen) == 4


def test_nobody_without_a_home_can_read(tree, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    first = of(tree)
    monkeypatch.setattr(Path, "home", homeless)
    assert of(tree) == first


VGG = PublishedFile("vgg16-397923af.pth", "torchvision's model zoo")
KNOWN = Facts(dimensions=8)
CONTENT = b"weights"
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


def test_a_file_that_is_there(tmp_path, monkeypatch):
    (tmp_path / "vgg.pth").touch()
    require_file(str(tmp_path / "vgg.pth"), "weights", VGG, KNOWN)
    monkeypatch.setenv("HOME", str(tmp_path))
    require_file("~/vgg.pth", "weights", VGG, KNOWN)


@pytest.mark.parametrize("name", ["vgg.pth", "folder"])
def test_a_missing_file_says_what_to_fetch_and_keeps_what_is_known(tmp_path, name):
    (tmp_path / "folder").mkdir()
    path = str(tmp_path / name)
    with pytest.raises(MissingFile) as caught:
        require_file(path, "distance.weights", VGG, KNOWN)
    error = caught.value
    assert (error.field, error.facts) == ("distance.weights", KNOWN)
    assert error.what == f"there is no file '{path}'"
    assert error.fix.startswith("fetch vgg16-397923af.pth from torchvision's model zoo, and put it")


def test_a_name_holds_the_beginning_of_the_checksum(tmp_path):
    path = tmp_path / f"vgg16-{DIGITS}.pth"
    path.write_bytes(CONTENT)
    require_checksum(str(path), "weights")
    path.write_bytes(CONTENT[:-1])  # a download that broke off
    with pytest.raises(FieldError, match=f"which its name says is {DIGITS}") as caught:
        require_checksum(str(path), "weights")
    assert caught.value.field == "weights"
    assert hashlib.sha256(CONTENT[:-1]).hexdigest()[:8] in caught.value.what


@pytest.mark.parametrize(
    "name", ["vgg16.pth", "vgg16-397923a.pth", "vgg16-397923AF.pth", "vgg16-397923af", "397923af.x"]
)
def test_a_name_that_promises_nothing_is_not_read(name):
    require_checksum(f"/nowhere/{name}", "weights")


def test_a_file_that_cannot_be_read_is_an_os_error():
    with pytest.raises(FileNotFoundError):
        require_checksum("/nowhere/vgg16-397923af.pth", "weights")
