import pickle

import pytest

from slimctl.jobs.base.errors import (
    BadDevice,
    CollectiveHung,
    DamagedArtifact,
    JobFailed,
    OutOfMemory,
    Preempted,
    TrainingDiverged,
    WorkLost,
)
from slimctl.jobs.base.failures import BUDGETS, DEVICE, first_cause, named

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]"
GLOO_LATE = "[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv"
NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network"
NCCL_LATE = "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)"
GPU = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"
CPU = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
FAULTS = [
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported later",
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA",
    "CUDA error: unspecified launch failure",
    "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
]


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (RuntimeError(GLOO), WorkLost),
        (RuntimeError(NCCL), WorkLost),
        (RuntimeError(GLOO_LATE), CollectiveHung),
        (RuntimeError(NCCL_LATE), CollectiveHung),
        (RuntimeError(GPU), OutOfMemory),
        (RuntimeError(CPU), OutOfMemory),
        *((RuntimeError(fault), BadDevice) for fault in FAULTS),
    ],
)
def test_what_torch_raises_gets_its_class_and_the_line_that_says_so(error, cls):
    found = pickle.loads(pickle.dumps(named(error, "job 'x'")))
    assert type(found) is cls
    assert (found.where, found.what) == ("job 'x'", str(error).splitlines()[0])


@pytest.mark.parametrize(
    ("error", "cls"),
    [
        (ConnectionResetError("net"), WorkLost),
        (OSError(28, "No space left on device"), WorkLost),
        (FileNotFoundError("weights.pth"), JobFailed),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), JobFailed),
        (ValueError("connection closed"), JobFailed),
    ],
)
def test_other_errors_may_pass_or_not(error, cls):
    found = named(error, "job 'x'")
    assert type(found) is cls
    assert (found.where, found.what) == ("job 'x'", f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("where", ["", "flow-1"])
def test_an_error_that_has_a_class_keeps_it_and_its_words(where):
    error = TrainingDiverged(where, "the loss became nan", "lower it")
    found = pickle.loads(pickle.dumps(named(error, "job 'x'")))
    assert type(found) is TrainingDiverged
    assert found.args == (where or "job 'x'", "the loss became nan", "lower it")


def test_what_would_come_again_is_the_cause_of_what_would_not():
    lost, damaged = WorkLost("", "closed"), DamagedArtifact("", "differs")
    hung = CollectiveHung("", "stood still")
    assert first_cause([ValueError("odd"), lost, damaged]) is damaged
    assert first_cause([lost, hung]) is hung
    assert first_cause([lost, ValueError("odd")]) is lost
    assert first_cause([ValueError("odd")]) is None


def test_a_mistake_of_the_program_is_no_bad_gpu():
    assert not DEVICE.search("shapes do not match in record 12")
    assert not DEVICE.search("the section has no ECCentricity")


def test_only_lost_work_is_started_again():
    again = {name for name, budget in BUDGETS.items() if budget.failures > 1}
    assert again == {cls.__name__ for cls in (WorkLost, Preempted, CollectiveHung, BadDevice)}
