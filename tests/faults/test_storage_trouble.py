"""A storage that is full, read-only or slow, or whose writer dies at any moment."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from here import SMALL, run_here
from ray_processes import result_bytes
from s3 import BUCKET, s3_server

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage import blobs as blobs_module
from slimctl.jobs.storage.blobs import LocalBlobs, RemoteBlobs
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.cli.main import main
from slimctl.orchestrator.upkeep.verify import verify_all

CANARY = "canary-of-s3"


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    storage = tmp_path_factory.mktemp("calm")
    assert set(run_here(storage).values()) == {""}
    return result_bytes(storage)


class DiesError(BaseException):
    """The end of a process, as far as one process can play it."""


class Writes:
    """Counts writes, and breaks one of them in the middle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.count = 0
        self.breaks = -1
        fsync = blobs_module.os.fsync

        def broken(descriptor: int) -> None:
            self.count += 1
            if self.count == self.breaks:
                raise error
            fsync(descriptor)

        monkeypatch.setattr(blobs_module.os, "fsync", broken)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.faults)])
@pytest.mark.parametrize(
    ("error", "first"),
    [(OSError(28, "No space left on device"), 1), (DiesError(), 2)],
    ids=["full", "dies"],
)
def test_a_write_that_breaks_leaves_nothing_half_done(
    tmp_path, monkeypatch, expected, error, first, every
):
    """A write of a run in turn; the next run is right, and nothing is believed that is not."""
    writes = Writes(monkeypatch, error)
    assert set(run_here(tmp_path / "count").values()) == {""}
    total = writes.count
    assert total >= 20
    for at in range(min(first, every), total + 1, every):
        storage = tmp_path / str(at)
        writes.count, writes.breaks = 0, at
        with contextlib.suppress(OSError, DiesError):
            run_here(storage)
        writes.breaks = -1
        found = [f for f in verify_all(Store(str(storage)), 2) if not f.name.startswith("runs/")]
        assert not any(finding.problems for finding in found), at
        assert set(run_here(storage).values()) == {""}, at
        assert result_bytes(storage) == expected, at


def mount(*options: str) -> None:
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A real file system that is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=60k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_disk_that_fills_up_and_is_made_larger(small_disk, expected):
    storage = small_disk / "store"
    failures = {"OSError"}
    with contextlib.suppress(OSError):  # the record of the run may not find a place either
        failures = set(run_here(storage).values())
    assert "OSError" in failures
    assert failures <= {"", "OSError", "blocked"}
    mount("-o", "remount,size=50M", str(small_disk))
    assert set(run_here(storage).values()) == {""}
    assert result_bytes(storage) == expected


def test_a_read_only_disk_is_reported_before_anything_starts(small_disk, capsys, monkeypatch):
    file = small_disk / "small.yaml"
    file.write_text(SMALL)
    mount("-o", "remount,ro", str(small_disk))
    monkeypatch.setattr(
        sys, "argv", ["slimctl", "submit", str(file), "--storage", str(small_disk / "store")]
    )
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Read-only file system" in said
    assert "--storage" in said


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [0.01, pytest.param(2.0, marks=pytest.mark.faults)])
def test_a_slow_storage_only_takes_longer(tmp_path, monkeypatch, expected, seconds):
    """Every call waits; nothing runs out meanwhile."""
    for name in ("read", "write", "size", "names", "put_file"):
        real = getattr(LocalBlobs, name)

        def slow(self, *arguments, real=real, **options):
            time.sleep(seconds)
            return real(self, *arguments, **options)

        monkeypatch.setattr(LocalBlobs, name, slow)
    assert set(run_here(tmp_path).values()) == {""}
    assert result_bytes(tmp_path) == expected


def test_a_run_on_s3_makes_the_same_and_keeps_no_secret(tmp_path, monkeypatch, expected):
    """Credentials come from the environment; neither the store nor an error repeats them."""
    with s3_server() as environment:
        assert CANARY in environment.values()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        uri = f"s3://{BUCKET}/store"
        assert set(run_here(uri).values()) == {""}
        store = Store(uri)
        assert isinstance(store.blobs, RemoteBlobs)
        held = {name: store.blobs.read(name) for name in store.blobs.names()}
        for name, data in expected.items():
            assert held[name] == data
        assert not any(CANARY.encode() in data for data in held.values())
        assert not any(finding.problems for finding in verify_all(store, 2))
        with pytest.raises(UserError) as caught:
            Store("s3://no-such-bucket/x").check_writable()
        assert CANARY not in str(caught.value)
        assert "no-such-bucket" in str(caught.value)
