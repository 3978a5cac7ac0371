"""Why a worker died, in words: Ray's own reason, and memory by its name."""

import re
from typing import NamedTuple

from slimctl.jobs.base.memory import kernel_kills, memory_limit

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


class Death(NamedTuple):
    """Why something died, and what to do about it."""

    what: str
    fix: str = ""


class DeathWatch:
    """Tells deaths for want of memory from others, from when it was made on.

    The kernel's own kills are seen on this machine alone.
    """

    def __init__(self) -> None:
        self._kills = kernel_kills()

    def explain(self, error: Exception, event: str = "its worker died") -> Death:
        """The cause behind an error of Ray.

        Args:
            error: what Ray raised.
            event: what happened, for a cause other than memory.
        """
        text = str(error)
        before, self._kills = self._kills, kernel_kills()
        monitored = MONITOR.search(text)
        if monitored:
            used, of = monitored.groups()
            what = f"out of memory: {used} of {of} GB were in use on its node, so Ray ended it"
            return Death(what, MORE_MEMORY)
        if any(words in text for words in MONITOR_WORDS):
            return Death(f"out of memory: {_reason(text)}", MORE_MEMORY)
        if self._kills > before:
            size = memory_limit()
            limit = f"the {size / 2**30:.1f} GiB that there are" if size else "its limit"
            return Death(f"out of memory: the kernel ended it, over {limit}", MORE_MEMORY)
        return Death(f"{event}: {type(error).__name__}: {_reason(text)}")


def _reason(text: str) -> str:
    """All that Ray says but the lines that only name the actor, as one line."""
    told = [line for line in text.splitlines() if not DETAILS.search(line)] or text.splitlines()
    line = " ".join(" ".join(told).split())
    return line if len(line) <= MOST else f"{line[:MOST]} ..."
