"""What a failure is, from whatever was raised: the error that names its class.

A worker that raises ends the training on all workers; what the others raise because of it, such as
a closed connection, is not the cause.
"""

import re
from collections.abc import Iterable

from slimctl.jobs.base.errors import JobFailed, SlimError, WorkLost

LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of the system that another attempt would meet again; others may pass."""
EXCHANGE = re.compile(
    r"gloo|nccl|c10d|TCPStore|connection (was )?(closed|reset|refused|aborted)|broken pipe",
    re.IGNORECASE,
)
"""In the words of torch.distributed, whose backends raise plain RuntimeErrors."""


def may_pass(error: BaseException) -> bool:
    """Whether an error of the system may not come again: a storage that stumbles, a full disk."""
    return isinstance(error, OSError) and not isinstance(error, LASTING)


def named(error: Exception, where: str) -> SlimError:
    """The error of the class that an exception belongs to, which survives pickling.

    Args:
        error: what a worker raised.
        where: the job, for errors that do not say it.
    """
    if isinstance(error, SlimError):
        return type(error)(error.where or where, *error.args[1:])
    text = f"{type(error).__name__}: {error}"
    lost = isinstance(error, RuntimeError) and EXCHANGE.search(text)
    return WorkLost(where, text) if lost or may_pass(error) else JobFailed(where, text)


def first_cause(failures: Iterable[Exception]) -> SlimError | None:
    """Of what workers raised, one that another attempt would meet again, else any that is named."""
    known = [error for error in failures if isinstance(error, SlimError)]
    return min(known, key=lambda error: isinstance(error, WorkLost), default=None)
