"""What a private Ray needs of this machine, looked at before it starts.

Ray itself fails late and oddly: it waits half a minute for a process that could not open a socket.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.memory import memory_limit

SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
SESSION = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""What Ray adds to the folder for its sockets."""
MEMORY_GIB = 1.0
"""Ray's own processes take about 0.7 GiB, a worker with torch 0.4."""
COMFORT_GIB = 2.5
SHARED = Path("/dev/shm")
SHARED_MIB = 64
FULL = 0.95
"""Used share of the disk from which Ray refuses to put objects there."""
State = Literal["ok", "warn", "bad"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    what: str
    fix: str = ""


def preconditions() -> Iterator[Check]:
    """Looks at what a private Ray needs here: a folder, memory, shared memory."""
    yield _temporary_folder()
    yield _memory()
    yield _shared_memory()


def check_preconditions() -> list[str]:
    """Makes sure that a private Ray can start here.

    Returns:
        What may go wrong later.

    Raises:
        UserError: it cannot start.
    """
    found = list(preconditions())
    for check in found:
        if check.state == "bad":
            raise UserError("a private Ray cannot start here", check.what, check.fix)
    return [f"{check.what}\n  fix: {check.fix}" for check in found if check.state == "warn"]


def _temporary_folder() -> Check:
    """The folder where Ray keeps sockets and logs: RAY_TMPDIR, TMPDIR or /tmp."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
    folder = Path(os.environ.get(variable, "/tmp")).absolute()
    told = f"{variable}={folder}"
    own = f"set {variable} to a folder of your own with a short path, such as /tmp/$USER"
    longest = len(os.fsencode(folder / SESSION.format(pid=os.getpid())))
    if longest > SOCKET_BYTES:
        what = (
            f"{told} is too long: Ray's sockets in it would have paths of {longest} bytes, and "
            f"the system takes {SOCKET_BYTES}"
        )
        return Check("folder of Ray", "bad", what, f"{own} (at most {_room()} bytes)")
    if not folder.is_dir():
        what = f"{told} is {'no folder' if folder.exists() else 'not there'}"
        return Check("folder of Ray", "bad", what, f"mkdir -p {folder}, or {own}")
    for place in (folder / "ray", folder):
        if place.is_dir():
            break
    if not os.access(place, os.W_OK | os.X_OK):
        who = f"{place} belongs to user {place.stat().st_uid} and cannot be written by you"
        return Check("folder of Ray", "bad", f"{told}: {who}", own)
    disk = shutil.disk_usage(place)
    if disk.used > FULL * (disk.used + disk.free):
        what = f"{told}: its disk is over {FULL:.0%} full ({disk.free / 2**30:.1f} GiB left)"
        return Check("folder of Ray", "warn", what, f"make room there, or {own}")
    return Check("folder of Ray", "ok", told)


def _room() -> int:
    """Bytes that the path of Ray's folder may have."""
    return SOCKET_BYTES - len(f"/{SESSION.format(pid=os.getpid())}")


def _memory() -> Check:
    limit = memory_limit()
    if limit is None:
        return Check("memory", "ok", "not known")
    told = f"{limit / 2**30:.1f} GiB of memory"
    fix = "raise the limit of the container or of the scheduler's job (--memory, --mem)"
    if limit < MEMORY_GIB * 2**30:
        return Check("memory", "bad", f"{told}: Ray needs {MEMORY_GIB:g} GiB to start", fix)
    if limit < COMFORT_GIB * 2**30:
        what = f"{told}: a worker that trains may not fit beside Ray below {COMFORT_GIB:g} GiB"
        return Check("memory", "warn", what, fix)
    return Check("memory", "ok", told)


def _shared_memory() -> Check:
    """Small shared memory works: Ray puts large objects on the disk instead."""
    if not SHARED.is_dir():
        return Check("shared memory", "warn", f"there is no {SHARED}", "mount a tmpfs there")
    size = shutil.disk_usage(SHARED)
    told = f"{SHARED} has {size.free / 2**20:,.0f} MiB free"
    if size.free < SHARED_MIB * 2**20 or not os.access(SHARED, os.W_OK):
        fix = "give the container more: docker run --shm-size=2g"
        return Check("shared memory", "warn", f"{told}: Ray uses the slower disk", fix)
    return Check("shared memory", "ok", told)
