"""What this machine computes with, told without torch or Ray, which take seconds to load."""

import ctypes
import os

from slimctl.jobs.base.cluster import Cluster

NVML = "libnvidia-ml.so.1"
"""NVIDIA's own library, which every driver brings; Ray counts GPUs by it, too."""


def devices_here() -> Cluster:
    """Devices that a private Ray on this machine would have."""
    cpus = os.cpu_count() or 1
    return Cluster(cpus=cpus, gpus=_visible(_gpus()), node_cpus=cpus)


def _gpus() -> int:
    """Number of NVIDIA GPUs; 0 without a driver."""
    try:
        library = ctypes.CDLL(NVML)
        count = ctypes.c_uint()
        if library.nvmlInit_v2() != 0:
            return 0
        found = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
        library.nvmlShutdown()
    except (OSError, AttributeError):  # no driver, or one without these functions
        return 0
    return count.value if found else 0


def _visible(gpus: int) -> int:
    """How many of them CUDA_VISIBLE_DEVICES leaves; those after a -1 do not count."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return gpus
    names = [name.strip() for name in named.split(",")]
    stop = next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))
    return min(gpus, stop)
