import socket

import pytest

from jobs.storage.store import Store
from orchestrator import diagnosis
from orchestrator.diagnosis import Check, diagnose


def checks(storage, tracking=None, address=None) -> dict[str, Check]:
    return {check.name: check for check in diagnose(str(storage), tracking, address)}


def test_a_healthy_machine(tmp_path):
    found = checks(tmp_path)
    assert {check.state for check in found.values()} == {"ok"}
    assert set(found) == {"versions", "devices", "storage", "clock of the storage", "mlflow"}
    assert "ray 2." in found["versions"].what
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_storage_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    found = checks(tmp_path / "file" / "store")
    assert found["storage"].state == "bad"
    assert "--storage" in found["storage"].fix


def test_a_storage_that_nothing_opens():
    assert checks("nope://x")["storage"].state == "bad"


def test_a_slow_storage(tmp_path, monkeypatch):
    now = iter(range(0, 100, 8))
    monkeypatch.setattr(diagnosis.time, "perf_counter", lambda: next(now))
    assert "4.0 s a call" in checks(tmp_path)["storage"].what


def test_a_clock_that_is_off(tmp_path, monkeypatch):
    modified = Store(str(tmp_path)).blobs.__class__.modified
    monkeypatch.setattr(
        "jobs.storage.blobs.LocalBlobs.modified", lambda self, name: modified(self, name) - 90
    )
    clock = checks(tmp_path)["clock of the storage"]
    assert (clock.state, clock.what) == ("bad", "differs by 90.0 s from this machine's")
    assert "NTP" in clock.fix


def test_a_tracking_server_that_is_not_there(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = checks(tmp_path, f"http://127.0.0.1:{port}")["mlflow"]
    assert found.state == "bad"
    assert f"127.0.0.1:{port}" in found.what
    assert "mlflow server" in found.fix


def test_a_tracking_server_that_is_there(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert checks(tmp_path, uri)["mlflow"].state == "ok"


def test_a_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "PACKAGES", ("ray", "no_such_package"))
    found = checks(tmp_path)["versions"]
    assert found.state == "bad"
    assert "no_such_package" in found.what


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ftp://x"])
def test_a_cluster_that_is_not_there(tmp_path, address):
    assert checks(tmp_path, None, address)["cluster"].state == "bad"
