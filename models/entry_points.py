"""What installed packages add to this one: a group of entry points for each sort of thing.

A package names in its `pyproject.toml` what it adds, as `name = "module:Thing"` under
`[project.entry-points."slimctl.networks"]` and the like; nothing here has to be changed for it.
"""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint
else:  # `importlib_metadata`, once somebody has imported it, gives a class of its own
    EntryPoint = object

__all__ = ["EntryPoint", "installed", "origin"]


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of a group."""
    return {entry.name: entry for entry in entry_points(group=group)}


def origin(entry: EntryPoint) -> str:
    """Who adds it, for an error."""
    package = entry.dist.name if entry.dist else "an installed package"
    return f"{package}: entry point {entry.group} {entry.name} = {entry.value}"
