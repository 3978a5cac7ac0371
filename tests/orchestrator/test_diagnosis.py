import socket
import sqlite3

import pytest

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator import diagnosis
from slimctl.orchestrator.diagnosis import Check, diagnose


def checks(storage, tracking=None, address=None) -> dict[str, Check]:
    return {check.name: check for check in diagnose(str(storage), tracking, address)}


def test_a_healthy_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "preconditions", lambda: [Check("memory", "ok", "8 GiB")])
    found = checks(tmp_path)
    assert {check.state for check in found.values()} == {"ok"}
    assert set(found) == {
        "versions", "devices", "memory", "storage", "clock of the storage", "mlflow",
    }  # fmt: skip
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
        "slimctl.jobs.storage.blobs.LocalBlobs.modified",
        lambda self, name: modified(self, name) - 90,
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


@pytest.fixture
def database(tmp_path):
    """`database(revision)` makes a tracking database with that schema, in an odd folder."""
    folder = tmp_path / "50%ab #1?"
    folder.mkdir()

    def make(revision: str) -> sqlite3.Connection:
        made = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        return made

    return folder, make


@pytest.mark.parametrize(
    ("revision", "state", "words"),
    [
        (None, "ok", "sqlite:///"),
        ("ffffffffffff", "bad", "newer"),
        ("451aebb31d03", "bad", "mlflow db upgrade"),
    ],
)
def test_the_schema_of_the_tracking_database(database, revision, state, words):
    folder, make = database
    make(revision or diagnosis._known_revisions()[1]).close()
    found = checks(folder)["mlflow"]
    assert found.state == state
    assert words in found.what + found.fix


def test_a_tracking_database_that_somebody_holds(database, monkeypatch):
    monkeypatch.setattr(diagnosis, "ANSWER_S", 0.1)
    folder, make = database
    holder = make("x")
    holder.execute("BEGIN EXCLUSIVE")
    found = checks(folder)["mlflow"]
    holder.close()
    assert (found.state, "locked" in found.what) == ("bad", True)
    assert "fuser" in found.fix
    assert "runs go on without it" in found.fix


def test_a_tracking_database_that_is_none(tmp_path):
    (tmp_path / "mlflow.db").write_text("nothing of the kind, and long enough to be read" * 50)
    assert "not a database" in checks(tmp_path)["mlflow"].what
