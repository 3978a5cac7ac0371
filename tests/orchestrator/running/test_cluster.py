import ctypes
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slimctl.jobs.base.cluster import Cluster, NodeSize
from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.running import cluster as module
from slimctl.orchestrator.running.cluster import (
    NVML,
    PACKAGE,
    RAY_LISTENER,
    connect,
    describe_cluster,
    devices_here,
    gpu_bytes_here,
)
from slimctl.orchestrator.running.launcher import NAMESPACE


class Ray:
    """The part of Ray that opens and describes a cluster."""

    def __init__(self) -> None:
        self.open = False
        self.inits: list[dict[str, Any]] = []
        self.refusal: BaseException | None = None
        self.leaving: dict[str, int] = {}
        self.devices = [(True, {"CPU": 4.0, "memory": 1.0})]
        self.config: SimpleNamespace | None = None
        state = SimpleNamespace(get_cluster_config=lambda: self.config)
        self._private = SimpleNamespace(state=SimpleNamespace(state=state))

    def is_initialized(self) -> bool:
        return self.open

    def init(self, **options: Any) -> None:
        self.inits.append(options)
        self.folder, self.path = Path.cwd(), sys.path[:]
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.refusal is not None:
            raise self.refusal
        self.open = True

    def shutdown(self) -> None:
        self.open = False

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": alive, "Resources": has, "NodeID": f"n{at}"}
            for at, (alive, has) in enumerate(self.devices)
        ]


@pytest.fixture
def ray(monkeypatch) -> Ray:
    fake = Ray()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(module, "draining", lambda: fake.leaving)
    return fake


def test_without_an_address_a_private_ray_is_started_and_ended(ray):
    with connect(None) as cluster:
        assert ray.open
        assert cluster == Cluster(cpus=4, gpus=0)
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
    assert options["runtime_env"]["py_modules"] == [str(PACKAGE)]
    assert (PACKAGE.name, (PACKAGE / "models" / "ema.py").is_file()) == ("slimctl", True)


def test_an_open_connection_is_used_and_left_open(ray):
    ray.open = True
    with connect(None):
        pass
    assert ray.open
    assert ray.inits == []


def said(ray: Ray, address: str) -> str:
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
    text = said(ray, "auto")
    assert text.startswith("--address auto: no Ray cluster could be joined there: ")
    assert (str(refusal).splitlines() or ["OSError"])[0] in text
    assert "more" not in text
    assert "ray start --head" in text
    assert "RAY_AUTH_TOKEN" in text


def test_an_address_of_something_else_is_refused(ray):
    assert "host:port" in said(ray, "http://head:8265")
    assert ray.inits == []


@pytest.mark.parametrize(
    ("devices", "beside_gpu", "nodes"),
    [
        ([(True, {"CPU": 2.0}), (True, {"CPU": 8.0, "GPU": 2.0})], 4, [(2, 0), (8, 2)]),
        ([(True, {"CPU": 2.0}), (False, {"CPU": 8.0, "GPU": 2.0})], 4, [(2, 0)]),
        ([(True, {"CPU": 8.0}), (True, {})], 4, [(0, 0), (8, 0)]),
        ([(True, {"CPU": 0.0}), (True, {"CPU": 3.0, "GPU": 2.0})], 1, [(0, 0), (3, 2)]),
        ([(True, {"GPU": 1.0})], 0, [(0, 1)]),
        ([(True, {"CPU": 64.0, "GPU": 8.0}), (True, {"CPU": 3.0, "GPU": 4.0})], 0.75,
         [(3, 4), (64, 8)]),
    ],
)  # fmt: skip
def test_what_a_cluster_has(ray, devices, beside_gpu, nodes):
    """Dead nodes do not count, and a head without GPUs does not make GPU nodes seem small."""
    ray.devices = devices
    found = describe_cluster()
    assert [(node.cpus, node.gpus) for node in found.nodes] == nodes
    assert (found.cpus, found.gpus) == tuple(map(sum, zip(*nodes, strict=True)))
    assert found.beside_gpu == beside_gpu


def test_what_an_autoscaler_can_start(ray):
    """Managed clusters tell their node groups; a count of -1 has no limit."""
    groups = [({"CPU": 8, "GPU": 4}, 3), ({"CPU": 2}, -1), ({"GPU": 8}, 0)]
    ray.config = SimpleNamespace(
        node_group_configs=[
            SimpleNamespace(resources=resources, max_count=count) for resources, count in groups
        ]
    )
    found = describe_cluster()
    assert found.startable == ((NodeSize(2), sys.maxsize), (NodeSize(8, 4), 3))
    assert (found.gpus, found.startable_gpus) == (0, 12)


def test_nodes_that_leave_and_gpus_that_failed_do_not_count(ray):
    ray.devices = [(True, {"CPU": 8.0, "GPU": 4.0})] * 3
    ray.leaving = {"n1": 0}
    found = describe_cluster({"n2": 1, "n9": 1})
    assert [(node.cpus, node.gpus) for node in found.nodes] == [(8, 3), (8, 4)]


def test_the_users_own_settings_of_ray_are_left_alone(ray, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with connect(None):
        assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("address", [None, "auto"])
def test_the_users_folders_stay_off_the_workers_path(ray, monkeypatch, tmp_path, address):
    """Ray puts the current folder and the script's on it; a `models` there would hide ours."""
    here, scripts = tmp_path / "here", tmp_path / "scripts"
    here.mkdir()
    scripts.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", [str(scripts / "submit.py")])
    monkeypatch.syspath_prepend(str(scripts))
    with connect(address):
        assert Path.cwd() == here
        assert str(scripts) in sys.path
    assert str(scripts) not in ray.path
    if address is None:
        assert ray.folder == Path(__file__).parents[3], "so that workers find this code"
    else:
        assert not ray.folder.exists(), "an empty folder, gone by now"


def test_a_relative_folder_of_rays_is_the_users(ray, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "scratch")
    with connect("auto"):
        assert os.environ["TMPDIR"] == str(tmp_path / "scratch")


def test_uv_starts_no_workers(ray, monkeypatch):
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", raising=False)
    with connect(None):
        assert os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_the_programs_signal_handlers_are_kept(ray):
    def stop(*_):
        """Not Ray's."""

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with connect(None):
            assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_while_ray_starts_is_the_programs(ray):
    """Ray's handler ends the program with the signal's number, and no words."""

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    ray.refusal = SystemExit(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), connect(None):
            pass
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_rays_listener_prints_is_left_out(ray, capsys):
    with connect(None):
        listener = threading.Thread(target=print, args=("(raylet)",), name=RAY_LISTENER)
        listener.start()
        listener.join()
        print("ours")
    assert capsys.readouterr().out == "ours\n"


def library(count: int, *, started: int = 0, counted: int = 0) -> SimpleNamespace:
    """NVIDIA's library with that many GPUs and those return codes."""

    def get_count(place) -> int:
        place._obj.value = count
        return counted

    return SimpleNamespace(
        nvmlInit_v2=lambda: started, nvmlDeviceGetCount_v2=get_count, nvmlShutdown=lambda: 0
    )


@pytest.fixture
def machine(monkeypatch):
    """`machine(library, visible)` sets what the driver and the environment say."""

    def make(found: SimpleNamespace | None, visible: str | None = None) -> None:
        def load(name: str) -> SimpleNamespace:
            assert name == NVML
            if found is None:
                raise OSError(name)
            return found

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return make


@pytest.mark.parametrize(
    ("found", "visible", "gpus"),
    [
        (None, None, 0),
        (None, "0,1", 0),
        (library(4), None, 4),
        (library(4), "2", 1),
        (library(4), "0, 3", 2),
        (library(4), "GPU-1f2e,MIG-3c", 2),
        (library(4), "", 0),
        (library(4), "-1", 0),
        (library(4), "1,-1,2", 1),
        (library(1), "0,1,2", 1),
        (library(4, started=9), None, 0),
        (library(4, counted=3), None, 0),
        (SimpleNamespace(), None, 0),
    ],
)
def test_gpus_are_those_that_a_job_could_use(machine, found, visible, gpus):
    machine(found, visible)
    here = devices_here()
    assert here.gpus == gpus
    assert here.cpus == here.nodes[0].cpus == os.cpu_count()


def test_torch_counts_the_same():
    torch = pytest.importorskip("torch")
    assert devices_here().gpus == torch.cuda.device_count()


def test_the_count_is_passed_by_reference():
    """The stand-in above takes what ctypes gives the library."""
    count = ctypes.c_uint()
    assert library(7).nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    assert count.value == 7


@pytest.mark.parametrize(("sizes", "smallest"), [((80, 40), 40), ((), None), (None, None)])
def test_the_smallest_gpu_says_how_much_fits(machine, sizes, smallest):
    found = None if sizes is None else library(len(sizes))

    def handle(number, by_reference):
        by_reference._obj.value = number.value + 1
        return 0

    def memory(of, by_reference):
        by_reference._obj.total = sizes[of.value - 1]
        return 0

    if found is not None:
        found.nvmlDeviceGetHandleByIndex_v2, found.nvmlDeviceGetMemoryInfo = handle, memory
    machine(found)
    assert gpu_bytes_here() == smallest
