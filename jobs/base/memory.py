"""Memory of this machine: how much this process may use, and whom the kernel killed for it.

Limits and counts are those of the control group that holds the process (version 1 or 2), as
containers and schedulers set them; without one, those of the whole machine.
"""

import re
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
KILL_FILES = ("memory.events", "memory.oom_control")


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
