import ctypes
import os
from types import SimpleNamespace

import pytest

from slimctl.orchestrator import devices
from slimctl.orchestrator.devices import NVML, devices_here


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

        monkeypatch.setattr(devices.ctypes, "CDLL", load)
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
    assert here.cpus == here.node_cpus == os.cpu_count()


def test_torch_counts_the_same():
    torch = pytest.importorskip("torch")
    assert devices_here().gpus == torch.cuda.device_count()


def test_the_count_is_passed_by_reference():
    """The stand-in above takes what ctypes gives the library."""
    count = ctypes.c_uint()
    assert library(7).nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    assert count.value == 7
