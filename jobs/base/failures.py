"""What a failure is, from whatever was raised, and how often what failed so is started again.

A worker that raises ends the training on all workers; what the others raise because of it, such as
a closed connection, is not the cause. The table of budgets is the only place that says what is
tried again.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from slimctl.jobs.base.errors import (
    BadDevice,
    CollectiveHung,
    DamagedArtifact,
    JobFailed,
    OutOfMemory,
    Preempted,
    SlimError,
    TrainingDiverged,
    UserError,
    WorkLost,
)


@dataclass(frozen=True)
class Budget:
    """What becomes of a job that failed."""

    failures: float = 1
    """How many in a row, without progress between them, end the job."""
    alike: float = math.inf
    """How many in a row, of the same words, end it whatever progress there was."""
    counts: bool = True
    """Whether it counts at all; what does not is started again without a pause."""


BUDGETS: Mapping[str, Budget] = {
    cls.__name__: budget
    for cls, budget in {
        UserError: Budget(),
        DamagedArtifact: Budget(),
        JobFailed: Budget(),
        TrainingDiverged: Budget(),
        OutOfMemory: Budget(),
        WorkLost: Budget(failures=6),
        Preempted: Budget(failures=math.inf, counts=False),
        CollectiveHung: Budget(failures=3, alike=2),
        BadDevice: Budget(failures=6, alike=2),
    }.items()
}
"""By the name of the error; a bug, which has none of these names, is like JobFailed."""

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of the system that another attempt would meet again; others may pass."""
MEMORY = re.compile(r"out of memory|can't allocate|ALLOC_FAILED", re.IGNORECASE)
"""In the words of torch, of its CPU allocator and of NVIDIA's libraries."""
DEVICE = re.compile(
    r"\bXid\b|\bECC\b|uncorrectable|illegal (memory access|instruction|address)|"
    r"device-side assert|misaligned address|unspecified launch failure|hardware stack error|"
    r"fallen off the bus|GPU is lost|nvlink error|device\(s\) is/are busy or unavailable",
    re.IGNORECASE,
)
"""In the words of CUDA, after which nothing works in that process, and perhaps on that GPU."""
HUNG = re.compile(r"timed out waiting|collective operation timeout", re.IGNORECASE)
"""In the words of gloo, and of the watchdog of NCCL."""
EXCHANGE = re.compile(
    r"gloo|nccl|c10d|TCPStore|connection (was )?(closed|reset|refused|aborted)|broken pipe",
    re.IGNORECASE,
)
"""In the words of torch.distributed, whose backends raise plain RuntimeErrors."""
LESS_MEMORY = (
    "give the job less to hold at once: a smaller batch_size, or micro_batch for a training; "
    "or a device with more memory"
)
CLASSES: tuple[tuple[re.Pattern[str], type[SlimError], str], ...] = (
    (MEMORY, OutOfMemory, LESS_MEMORY),
    (DEVICE, BadDevice, "look for Xid lines in dmesg of its node, or nvidia-smi -q -d ECC"),
    (HUNG, CollectiveHung, ""),
    (EXCHANGE, WorkLost, ""),
)
"""Of RuntimeErrors: the first pattern that is found, its class and what to do."""


def may_pass(error: BaseException) -> bool:
    """Whether an error of the system may not come again: a storage that stumbles, a full disk."""
    return isinstance(error, OSError) and not isinstance(error, LASTING)


def recognised(error: Exception, where: str) -> SlimError | None:
    """The error of the class that an exception of torch or CUDA belongs to; None if of none."""
    if isinstance(error, SlimError):
        return type(error)(error.where or where, *error.args[1:])
    if isinstance(error, MemoryError):
        return OutOfMemory(where, "MemoryError: the host's memory does not suffice", LESS_MEMORY)
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    for pattern, cls, fix in CLASSES:
        if pattern.search(text):
            first = next(line for line in text.splitlines() if pattern.search(line))
            device = device_here() if cls is BadDevice else ()
            return cls(where, first.strip(), fix, *device)
    return None


def device_here() -> tuple[str, str]:
    """Ray's ids of this node, and of the GPU that it gave to this process; "" if not known."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return "", ""
    context = ray.get_runtime_context()
    assigned = context.get_accelerator_ids().get("GPU", [])
    return context.get_node_id(), str(assigned[0]) if len(assigned) == 1 else ""


def named(error: Exception, where: str) -> SlimError:
    """The error of the class that an exception belongs to, which survives pickling.

    Args:
        error: what a worker raised.
        where: the job, for errors that do not say it.
    """
    known = recognised(error, where)
    if known is not None:
        return known
    text = f"{type(error).__name__}: {error}"
    return WorkLost(where, text) if may_pass(error) else JobFailed(where, text)


@contextmanager
def classified(where: str) -> Iterator[None]:
    """Raises what torch or CUDA raise as the error of its class, with the device that failed."""
    try:
        yield
    except RuntimeError as error:
        known = recognised(error, where)
        if known is None:
            raise
        raise known from error


def first_cause(failures: Iterable[Exception]) -> SlimError | None:
    """The cause among what workers raised: what would come again, else the one that says most."""
    known = [error for error in failures if isinstance(error, SlimError)]
    return min(
        known,
        key=lambda error: (isinstance(error, WorkLost), type(error) is WorkLost),
        default=None,
    )
