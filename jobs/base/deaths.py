"""Why a worker died, in words: Ray's own reason, and memory by its name.

Limits of memory and counts of kills are those of the control group that holds the process (version
1 or 2), as containers and schedulers set them; without one, those of the whole machine.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from slimctl.jobs.base.errors import OutOfMemory, Preempted, SlimError, WorkLost

MONITOR = re.compile(r"was ([\d.]+) ?GB used / ([\d.]+) ?GB limit")
"""What Ray's memory monitor says of the node when it ends a worker."""
MONITOR_WORDS = ("OOM kill reason", "running low on memory", "memory usage threshold")
DETAILS = re.compile(r"^\t|^The actor died unexpectedly before finishing this task")
"""Lines that name the actor and give no reason."""
MOST = 600
"""Characters of a reason that are kept."""
MORE_MEMORY = (
    "give the machine or its container more memory, or the job less to hold: a smaller "
    "batch_size, fewer workers, fewer jobs at once"
)
GROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
KILL_FILES = ("memory.events", "memory.oom_control")


class Death(NamedTuple):
    """Why something died, and what to do about it."""

    what: str
    fix: str = ""
    failure: type[SlimError] = WorkLost
    """The class of error that it is."""


class DeathWatch:
    """Tells deaths for want of memory, and announced ones, from others, from when it was made on.

    The kernel's own kills are seen on this machine alone, by the count of the control group: a
    process that dies when that has risen is taken for the one that was killed, since it would be
    killed again.
    """

    def __init__(self) -> None:
        self._kills = kernel_kills()

    def explain(self, error: Exception, event: str = "its worker died") -> Death:
        """The cause behind an error of Ray; `event` is what happened, where it was not memory."""
        text = str(error)
        before, self._kills = self._kills, kernel_kills()
        monitored = MONITOR.search(text)
        if monitored:
            used, of = monitored.groups()
            what = f"out of memory: {used} of {of} GB were in use on its node, so Ray ended it"
            return Death(what, MORE_MEMORY, OutOfMemory)
        if any(words in text for words in MONITOR_WORDS):
            what = f"out of memory: {_reason(text)}"
            return Death(what, MORE_MEMORY, OutOfMemory)
        if getattr(error, "preempted", False):
            return Death("its node was taken away, as was announced", "", Preempted)
        if self._kills > before:
            size = memory_limit()
            limit = f"the {size / 2**30:.1f} GiB that there are" if size else "its limit"
            what = f"out of memory: the kernel ended it, over {limit}"
            return Death(what, MORE_MEMORY, OutOfMemory)
        return Death(f"{event}: {type(error).__name__}: {_reason(text)}")


def _reason(text: str) -> str:
    """All that Ray says but the lines that only name the actor, as one line."""
    said = [line for line in text.splitlines() if not DETAILS.search(line)] or text.splitlines()
    line = " ".join(" ".join(said).split())
    return line if len(line) <= MOST else f"{line[:MOST]} ..."


def memory_limit() -> int | None:
    """Bytes that this process and those beside it may use; None = not known."""
    limits = [_number(PROC / "meminfo", r"MemTotal:\s+(\d+) kB", 1024)]
    limits += [_number(group / name, r"^(\d+)$") for group in _groups() for name in LIMIT_FILES]
    return min((limit for limit in limits if limit is not None), default=None)


def kernel_kills() -> int:
    """How many processes the kernel has killed so far because memory ran out."""
    counts = (
        _number(group / name, r"oom_kill (\d+)") for group in _groups() for name in KILL_FILES
    )
    own = next((count for count in counts if count is not None), None)
    return own if own is not None else _number(PROC / "vmstat", r"oom_kill (\d+)") or 0


def _groups() -> Iterator[Path]:
    """Folders of the control groups around this process, the innermost first."""
    for line in _text(PROC / "self" / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            root = GROUPS / "memory"
        elif number == "0" and not controllers:
            root = GROUPS
        else:
            continue
        inner = root / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted here.
        inside = inner.is_dir() and inner.is_relative_to(root)
        folders = [inner, *inner.parents] if inside else [root]
        yield from (folder for folder in folders if folder.is_relative_to(root))


def _number(file: Path, pattern: str, unit: int = 1) -> int | None:
    found = re.search(pattern, _text(file), re.MULTILINE)
    return int(found[1]) * unit if found else None


def _text(file: Path) -> str:
    """A file of the kernel; "" where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""
