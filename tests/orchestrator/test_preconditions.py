import os
from collections import namedtuple

import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator import preconditions as module
from slimctl.orchestrator.preconditions import Check, check_preconditions, preconditions

Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def good(monkeypatch, tmp_path):
    """A machine with all that Ray needs; the folder has a short path."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(module, "memory_limit", lambda: 8 * 2**30)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Disk(2**34, 2**33, 2**33))
    return monkeypatch


def found() -> dict[str, Check]:
    return {check.name: check for check in preconditions()}


def test_a_good_machine(good):
    assert {check.state for check in preconditions()} == {"ok"}
    assert check_preconditions() == []


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_whose_path_is_too_long(good, tmp_path, variable):
    """In bytes, as the system counts; whether or not it is there."""
    folder = tmp_path / ("ü" * 40)
    folder.mkdir()
    good.setenv(variable, str(folder))
    with pytest.raises(UserError, match=f"{variable}=.* is too long.*takes 107") as caught:
        check_preconditions()
    assert f"set {variable}" in caught.value.fix


def test_the_longest_folder_that_works(good):
    room = module._room()
    good.setattr(module.Path, "is_dir", lambda path: True)
    good.setattr(module.os, "access", lambda *_: True)
    good.setenv("TMPDIR", "/" + "a" * (room - 1))
    assert found()["folder of Ray"].state == "ok"
    good.setenv("TMPDIR", "/" + "a" * room)
    assert found()["folder of Ray"].state == "bad"


def test_a_folder_that_is_not_there(good):
    good.setenv("TMPDIR", "/nope")
    check = found()["folder of Ray"]
    assert (check.state, check.what) == ("bad", "TMPDIR=/nope is not there")
    assert "mkdir -p /nope" in check.fix


@pytest.mark.parametrize("inner", ["ray", ""])
def test_a_folder_of_somebody_else(good, tmp_path, inner):
    """Ray's own folder in it counts, if there is one."""
    good.setattr(module, "SOCKET_BYTES", 1000)
    (tmp_path / inner).mkdir(exist_ok=True)
    good.setenv("TMPDIR", str(tmp_path))
    good.setattr(module.os, "access", lambda place, mode: place != tmp_path / inner)
    check = found()["folder of Ray"]
    assert check.state == "bad"
    assert f"{tmp_path / inner} belongs to user {os.getuid()} and cannot be written" in check.what


def test_little_memory(good):
    good.setattr(module, "memory_limit", lambda: 2**29)
    with pytest.raises(UserError, match=r"0\.5 GiB of memory: Ray needs 1 GiB"):
        check_preconditions()
    good.setattr(module, "memory_limit", lambda: 3 * 2**29)
    (warning,) = check_preconditions()
    assert "1.5 GiB" in warning


def test_small_shared_memory_is_only_a_warning(good):
    small = Disk(2**25, 0, 2**25)
    good.setattr(
        module.shutil, "disk_usage",
        lambda place: small if place == module.SHARED else Disk(2**34, 2**33, 2**33),
    )  # fmt: skip
    (warning,) = check_preconditions()
    assert "32 MiB free" in warning
    assert "--shm-size" in warning


def test_a_full_disk_is_a_warning(good):
    good.setattr(module.shutil, "disk_usage", lambda place: Disk(2**34, 2**34 - 2**28, 2**28))
    assert found()["folder of Ray"].state == "warn"
