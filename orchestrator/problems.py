"""Mistakes of the user's input: where, what and how to fix it, all of them at once.

A check knows only the path of a mistake in the pipeline (`jobs.student.steps`); `Places` turns
paths into places, lines of a file or, for a pipeline made in Python, the dotted path itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from slimctl.jobs.base.errors import UserError

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a pipeline to a value."""
Side = Literal["key", "value"]


class Place(NamedTuple):
    """Where something stands."""

    file: str
    """The file as the user named it, `--set ...`, or a dotted path where there is no file."""
    line: int = 0
    """Line, from 1; 0 = the whole of `file`."""
    column: int = 0
    """Column, from 1; 0 = the whole line."""


class Places(ABC):
    """Finds the place of a path.

    Where a pipeline was written is no part of what it asks for, so places are always equal.
    """

    draft: bool = False
    """Whether files of the user may be missing: for looking at a pipeline, not for running it."""
    reads: bool = False
    """Whether the user's files are read where something else is wrong, to tell all at once."""

    @abstractmethod
    def place(self, path: Path, side: Side = "key") -> Place:
        """Where the value at a path, or the nearest thing around it, stands."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return hash(Places)


class DottedPlaces(Places):
    """Places of a pipeline made in Python: the dotted path."""

    def place(self, path: Path, side: Side = "key") -> Place:
        """`jobs.student.steps`."""
        del side  # there is no text to point into
        return Place(dotted(path) or "pipeline")


@dataclass(frozen=True)
class Mistake:
    """Something wrong at a path of the pipeline."""

    path: Path
    what: str
    """One sentence with the user's own value."""
    fix: str = ""
    """What to do."""
    side: Side = "key"
    """Whether the key or the value is to be pointed at."""
    missing_file: bool = False
    """Whether all that is wrong is that a file is not there (yet)."""

    def at(self, places: Places) -> "Problem":
        """The same with its place."""
        return Problem(*places.place(self.path, self.side), self.what, self.fix)


@dataclass(frozen=True)
class Problem:
    """Something wrong at a place."""

    file: str
    """The file as the user named it, `--set ...`, or a dotted path where there is no file."""
    line: int
    """Line, from 1; 0 = the whole of `file`."""
    column: int
    """Column, from 1; 0 = the whole line."""
    what: str
    """One sentence with the user's own value."""
    fix: str = ""
    """What to do; "" if `what` says it."""

    @property
    def where(self) -> str:
        """`file:line`, or `file` alone."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}"
        return f"{head}\n  fix: {self.fix}" if self.fix else head


class PipelineProblems(UserError):  # noqa: N818  (the name says what it is)
    """Everything that is wrong with a pipeline.

    Args:
        problems: at least one, in any order; those with lines are put in line order, before those
            without.
    """

    def __init__(self, *problems: Problem) -> None:
        ordered = sorted(problems, key=lambda one: (one.line == 0, one.line, one.column))
        super().__init__("", "\n".join(str(problem) for problem in ordered))
        self.args = tuple(ordered)
        self.problems = tuple(ordered)


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raises PipelineProblems if there are any."""
    found = tuple(dict.fromkeys(problems))
    if found:
        raise PipelineProblems(*found)


def dotted(path: Path) -> str:
    """A path as `--set` takes it."""
    return ".".join(str(part) for part in path)


def listed(names: Iterable[str], word: str = "or", most: int = 4) -> str:
    """`'a', 'b' or 'c'`; beyond `most` names the rest is counted."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > most:
        return f"{', '.join(quoted[:most])} {word} {len(quoted) - most} more"
    return f" {word} ".join(part for part in (", ".join(quoted[:-1]), *quoted[-1:]) if part)
