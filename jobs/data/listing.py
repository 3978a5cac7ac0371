"""Names in an error: the first few, then how many more, so that it stays readable."""

from collections.abc import Iterable
from itertools import islice

from slimctl.jobs.base.errors import printable

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
