"""A dry run of the session where torch believes in a GPU; `test_gpu_session.py` starts it.

In the mode in which waiting for the device is an error, it is one here, too. Kernels are counted by
the fake device, which the profiler knows nothing of.
"""

import sys
from contextlib import ExitStack
from types import SimpleNamespace
from unittest import mock

import torch
from fake_cuda import fake_cuda, persuade

from benchmarks.gpu_session import training_step
from benchmarks.gpu_session.__main__ import main
from benchmarks.training import Stepper


def run(arguments: list[str]) -> None:
    """Runs the session with what else it asks of a GPU."""
    if reason := persuade():
        sys.exit(f"no fake GPU: {reason}")
    properties = SimpleNamespace(total_memory=80 * 2**30, multi_processor_count=132)
    with fake_cuda() as device, ExitStack() as stack:
        noted, mode = device.waited, ["default"]

        def waited(what: str) -> None:
            noted(what)
            if mode[-1] == "error":
                raise RuntimeError(f"called a synchronizing CUDA operation: {what}")

        answers = {
            "get_device_properties": lambda *_: properties,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda *_: None,
            "max_memory_allocated": lambda *_: 2**30,
            "set_sync_debug_mode": mode.append,
        }
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch.backends.cudnn, "version", return_value=0))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "fake"))
        stack.enter_context(mock.patch.object(device, "waited", waited))

        def launches(stepper: Stepper) -> int:
            with device.count() as step:
                stepper.step()
            return step.kernels.total()

        stack.enter_context(mock.patch.object(training_step, "_launches", launches))
        main(arguments)


if __name__ == "__main__":
    run(sys.argv[1:])
