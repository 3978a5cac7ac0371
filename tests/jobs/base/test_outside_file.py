import hashlib

import pytest

from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.base.outside_file import PublishedFile, require_checksum, require_file

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
