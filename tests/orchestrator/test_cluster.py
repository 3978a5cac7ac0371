import os
import socket
import sys
from typing import Any

import pytest

from jobs.base.cluster import Cluster
from jobs.base.errors import UserError
from orchestrator.cluster import PACKAGES, connect, describe_cluster
from orchestrator.workers import NAMESPACE


class Ray:
    """The part of Ray that opens and describes a cluster."""

    def __init__(self) -> None:
        self.open = False
        self.inits: list[dict[str, Any]] = []
        self.refusal: Exception | None = None
        self.devices = [(True, {"CPU": 4.0, "memory": 1.0})]

    def is_initialized(self) -> bool:
        return self.open

    def init(self, **options: Any) -> None:
        self.inits.append(options)
        if self.refusal is not None:
            raise self.refusal
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": alive, "Resources": has} for alive, has in self.devices]


@pytest.fixture
def ray(monkeypatch) -> Ray:
    fake = Ray()
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_without_an_address_a_private_ray_is_started_and_ended(ray):
    with connect(None) as cluster:
        assert ray.open
        assert cluster == Cluster(cpus=4, gpus=0, node_cpus=4)
    assert not ray.open
    (options,) = ray.inits
    assert options["address"] == "local", "it never joins somebody else's cluster by accident"
    assert options["namespace"] == NAMESPACE
    assert not options["include_dashboard"]


def test_it_is_ended_after_an_error_too(ray):
    with pytest.raises(KeyboardInterrupt), connect(None):
        raise KeyboardInterrupt
    assert not ray.open


def test_a_running_cluster_gets_this_code(ray):
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with server, connect(address):
        pass
    (options,) = ray.inits
    assert options["address"] == address
    modules = options["runtime_env"]["py_modules"]
    assert [module.rpartition("/")[2] for module in modules] == list(PACKAGES)
    assert all(os.path.isdir(module) for module in modules)  # noqa: PTH112


def test_an_open_connection_is_used_and_left_open(ray):
    ray.open = True
    with connect(None):
        pass
    assert ray.open
    assert ray.inits == []


def told(ray: Ray, address: str) -> str:
    with pytest.raises(UserError) as caught, connect(address):
        pass
    assert not ray.open
    return str(caught.value)


@pytest.mark.parametrize(
    "refusal",
    [
        ConnectionError("Could not find any running Ray instance.\nmore\nlines"),
        RuntimeError("401 Unauthorized"),
        ValueError("bad address"),
        OSError(),
    ],
)
def test_no_cluster_at_an_address_is_the_users_to_mend(ray, refusal):
    ray.refusal = refusal
    text = told(ray, "auto")
    assert text.startswith("--address auto: no Ray cluster could be joined there: ")
    assert (str(refusal).splitlines() or ["OSError"])[0] in text
    assert "more" not in text
    assert "ray start --head" in text
    assert "RAY_AUTH_TOKEN" in text


def test_an_address_of_something_else_is_refused(ray):
    assert "host:port" in told(ray, "http://head:8265")
    assert ray.inits == []


@pytest.mark.parametrize(
    ("devices", "cluster"),
    [
        ([(True, {"CPU": 2.0}), (True, {"CPU": 8.0, "GPU": 2.0})], Cluster(10, 2, 2)),
        ([(True, {"CPU": 2.0}), (False, {"CPU": 8.0, "GPU": 2.0})], Cluster(2, 0, 2)),
        ([(True, {}), (True, {"CPU": 8.0})], Cluster(8, 0, 8)),
        ([(True, {"CPU": 0.0}), (True, {"CPU": 4.0, "GPU": 1.0})], Cluster(4, 1, 4)),
        ([(True, {"GPU": 1.0})], Cluster(0, 1, 1)),
    ],
)
def test_what_a_cluster_has(ray, devices, cluster):
    """Dead nodes do not count, and a head without CPUs does not make nodes seem small."""
    ray.devices = devices
    assert describe_cluster() == cluster


def test_the_users_own_settings_of_ray_are_left_alone(ray, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with connect(None):
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
