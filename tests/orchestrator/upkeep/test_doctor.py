import os
import socket
import sqlite3
import sys
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import pytest
from fake_ray import Clock, FakeRay, Future, RayError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running import preconditions as needs
from slimctl.orchestrator.running.preconditions import (
    Check,
    check_preconditions,
    check_shared,
    preconditions,
)
from slimctl.orchestrator.upkeep import doctor as diagnosis
from slimctl.orchestrator.upkeep.doctor import diagnose


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


Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def good(monkeypatch, tmp_path):
    """A machine with all that Ray needs; the folder has a short path."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(needs, "memory_limit", lambda: 8 * 2**30)
    monkeypatch.setattr(needs.shutil, "disk_usage", lambda place: Disk(2**34, 2**33, 2**33))
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
    room = needs._room()
    good.setattr(needs.Path, "is_dir", lambda path: True)
    good.setattr(needs.os, "access", lambda *_: True)
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
    good.setattr(needs, "SOCKET_BYTES", 1000)
    (tmp_path / inner).mkdir(exist_ok=True)
    good.setenv("TMPDIR", str(tmp_path))
    good.setattr(needs.os, "access", lambda place, mode: place != tmp_path / inner)
    check = found()["folder of Ray"]
    assert check.state == "bad"
    assert f"{tmp_path / inner} belongs to user {os.getuid()} and cannot be written" in check.what


def test_little_memory(good):
    good.setattr(needs, "memory_limit", lambda: 2**29)
    with pytest.raises(UserError, match=r"0\.5 GiB of memory: Ray needs 1 GiB"):
        check_preconditions()
    good.setattr(needs, "memory_limit", lambda: 3 * 2**29)
    (warning,) = check_preconditions()
    assert "1.5 GiB" in warning


def test_small_shared_memory_is_only_a_warning(good):
    small = Disk(2**25, 0, 2**25)
    good.setattr(
        needs.shutil, "disk_usage",
        lambda place: small if place == needs.SHARED else Disk(2**34, 2**33, 2**33),
    )  # fmt: skip
    (warning,) = check_preconditions()
    assert "32 MiB free" in warning
    assert "--shm-size" in warning


def test_a_full_disk_is_a_warning(good):
    good.setattr(needs.shutil, "disk_usage", lambda place: Disk(2**34, 2**34 - 2**28, 2**28))
    assert found()["folder of Ray"].state == "warn"


class FakeTasks(FakeRay):
    """Tasks that run at once, each on a node that sees the storage, or not."""

    def __init__(self, nodes: dict[str, bool | None]) -> None:
        super().__init__(Clock())
        self._nodes = nodes

    def nodes(self):
        return [
            {"Alive": True, "NodeID": name, "NodeManagerAddress": name,
             "NodeManagerHostname": f"host of {name}"}
            for name in self._nodes
        ]  # fmt: skip

    def remote(self, function):
        def options(*, scheduling_strategy, **chosen):
            assert chosen["num_cpus"] == 0
            sees = self._nodes[scheduling_strategy]

            def start(uri, name, content):
                if sees is None:
                    return Future(RayError("gone"))
                return Future(function(uri if sees else f"{uri}/elsewhere", name, content))

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, futures, num_returns, timeout):
        return futures, []


@pytest.fixture
def nodes(monkeypatch):
    def make(**sees: bool | None) -> None:
        monkeypatch.setitem(sys.modules, "ray", FakeTasks(sees))
        strategies = ModuleType("strategies")
        strategies.NodeAffinitySchedulingStrategy = lambda node, soft: node
        monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)

    return make


def test_a_storage_that_all_nodes_see(nodes, tmp_path):
    nodes(one=True, two=True)
    check_shared(Store(str(tmp_path)))
    assert Store(str(tmp_path)).blobs.names() == []


def test_nodes_that_do_not_see_it_are_named_with_the_reason(nodes, tmp_path):
    nodes(one=True, two=False, three=None)
    with pytest.raises(UserError, match=r"cannot be seen from 2 node\(s\)") as caught:
        check_shared(Store(str(tmp_path)))
    assert "two (FileNotFoundError" in caught.value.what
    assert "three (no answer: RayError)" in caught.value.what
    assert "s3://" in caught.value.fix
    assert str(tmp_path) in caught.value.where
    assert Store(str(tmp_path)).blobs.names() == [], "the probe is taken away"
