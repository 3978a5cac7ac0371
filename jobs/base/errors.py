"""The errors of the program.

    SlimError                where, what and how to fix it, in one exception
    ├── UserError            the user's input is wrong: no traceback, never retried, exit 2
    ├── DamagedArtifact      a stored file is not what its manifest says: exit 3
    ├── JobFailed            a job of a run failed: exit 4
    │   ├── TrainingDiverged the loss became NaN or infinite
    │   └── OutOfMemory      a training does not fit into the device's memory, however it is cut
    └── WorkLost             a worker or node died: retried
        ├── Preempted        its machine is taken away, as was announced: retried without end
        ├── CollectiveHung   workers waited too long for each other: retried
        └── BadDevice        a GPU fails: retried on the others

How often each is retried: `failures.BUDGETS`.
All constructor arguments stay in `args`, so that each survives the way through Ray.
"""

import re
from collections.abc import Iterable
from itertools import islice

ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""How Python writes a byte of a file's name that is not UTF-8."""


def printable(text: str) -> str:
    r"""Text that every terminal and every JSON takes: a file's name is any bytes, here `\xe9`."""
    shown = ESCAPED_BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return shown.encode("utf-8", "backslashreplace").decode()


class SlimError(Exception):
    """Base of the errors that say where, what and how to fix it.

    Args:
        where: file:line, job or artifact; "" if the error belongs to no place.
        what: one sentence with the user's own value.
        fix: what to do; "" if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, where: str, what: str, fix: str = "") -> None:
        super().__init__(where, what, fix)
        self.where = printable(where)
        self.what = printable(what)
        self.fix = printable(fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class UserError(SlimError):
    """The user's input is wrong; retrying cannot help."""

    exit_code = 2


class DamagedArtifact(SlimError):  # noqa: N818  (the name says what it is)
    """A stored file is missing, truncated or changed."""

    exit_code = 3


class JobFailed(SlimError):  # noqa: N818
    """A job of a run failed for a reason that is neither the user's nor a lost machine."""

    exit_code = 4


class TrainingDiverged(JobFailed):
    """The training loss is no longer finite."""


class OutOfMemory(JobFailed):
    """Work does not fit into a device's memory, and nothing that the program may change helps."""


class WorkLost(SlimError):  # noqa: N818
    """A worker or a node died with work in flight; the work is handed out again."""

    exit_code = 4


def what_and_fix(error: Exception | str) -> tuple[str, str]:
    """What an error of the models says, and its remedy, which stands on a line of its own."""
    what, _, fix = str(error).partition("\n  fix: ")
    return what, fix


class Preempted(WorkLost):
    """A machine is taken away, as was announced; there is a checkpoint of the moment."""


class CollectiveHung(WorkLost):
    """No worker of a training got any further, since one kept the others waiting."""


class BadDevice(WorkLost):
    """A GPU failed, or its driver: the work is handed out again, to others.

    Args:
        where: as for all errors.
        what: its words, without the device: they are the same on another one if the work is wrong.
        fix: as for all errors.
        node: Ray's id of the node; "" if not known.
        device: Ray's name of the GPU on that node; "" if not known.
    """

    def __init__(
        self, where: str, what: str, fix: str = "", node: str = "", device: str = ""
    ) -> None:
        super().__init__(where, what, fix)
        self.args = (where, what, fix, node, device)
        self.node = node
        self.device = device


CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
"""What may stand in a file's name and must not reach a terminal: new lines, escape sequences."""
NAMED = 10
"""Number of culprits that an error names."""


def listed(names: Iterable[str], total: int) -> str:
    """The first names as a list, and the count of the others: `a, b, c and 5 more`.

    Args:
        names: read no further than needed.
        total: how many there are.
    """
    shown = [printable(name).translate(CONTROLS) for name in islice(names, NAMED)]
    more = f" and {total - len(shown):,} more" if total > len(shown) else ""
    return ", ".join(shown) + more
