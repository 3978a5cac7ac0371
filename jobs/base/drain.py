"""Notices that something is going to be taken away: nodes, as Ray's store knows it, or jobs.

A job is told by a file in its work folder, which says why.
"""

from collections.abc import Mapping
from typing import Protocol

NOTICE = "leave.txt"


class Folder(Protocol):
    """What holds the unfinished work of a job."""

    def exists(self, name: str, /) -> bool: ...

    def read(self, name: str, /) -> bytes: ...

    def write(self, name: str, data: bytes, /) -> object: ...

    def delete(self, name: str, /) -> object: ...


def ask_to_leave(folder: Folder, reason: str) -> None:
    """Has the job that works in a folder leave what it can and end."""
    folder.write(NOTICE, reason.encode())


def asked_to_leave(folder: Folder) -> str:
    """Why the job that works in a folder has to leave; "" if it has not, or nobody can tell."""
    try:
        return folder.read(NOTICE).decode() if folder.exists(NOTICE) else ""
    except OSError:  # a storage that stumbles is asked again
        return ""


def forget_notice(folder: Folder) -> None:
    """Forgets what an earlier attempt was asked."""
    folder.delete(NOTICE)


def draining() -> Mapping[str, int]:
    """Ray's id of each node that is drained -> until when, Unix time in ms; 0 = not known.

    Ray Train's own watch of preemptions asks in the same way; there is no public one for other
    processes than its workers.
    """
    from ray._private.state import state  # noqa: PLC0415

    return dict(state.get_draining_nodes())
