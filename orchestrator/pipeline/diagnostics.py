"""Mistakes and warnings about the user's input: where, what and the fix, all of them at once.

A check knows only the path of a mistake in the pipeline (`jobs.student.steps`); `Places` turns
paths into places, lines of a file or, for a pipeline made in Python, the dotted path itself.
A warning is no mistake and stops nothing, yet makes a result say little; one that several jobs have
for the same reason is said once, where the first of them stands.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, SpecWarning

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline.pipeline import Pipeline
    from slimctl.orchestrator.planning.graph import Graph

KeyPath = tuple[str | int, ...]
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
    def place(self, path: KeyPath, side: Side = "key") -> Place:
        """Where the value at a path, or the nearest thing around it, stands."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Places)

    def __hash__(self) -> int:
        return hash(Places)


class DottedPlaces(Places):
    """Places of a pipeline made in Python: the dotted path."""

    def place(self, path: KeyPath, side: Side = "key") -> Place:
        """`jobs.student.steps`."""
        del side  # there is no text to point into
        return Place(dotted(path) or "pipeline")


@dataclass(frozen=True)
class Mistake:
    """Something wrong at a path of the pipeline."""

    path: KeyPath
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


def _on_one_line(text: str) -> str:
    """With what does not print, a line break in a user's value say, as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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

    def __post_init__(self) -> None:
        for name in ("file", "what", "fix"):
            object.__setattr__(self, name, _on_one_line(getattr(self, name)))

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


def dotted(path: KeyPath) -> str:
    """A path as `--set` takes it."""
    return ".".join(str(part) for part in path)


def field_path(job: str, field: str) -> KeyPath:
    """Path of a field, dotted for nested ones and with numbers for items of a list."""
    parts = (int(part) if part.isdecimal() else part for part in field.split("."))
    return ("jobs", job, *parts)


def listed(names: Iterable[str], word: str = "or", most: int = 4) -> str:
    """`'a', 'b' or 'c'`; beyond `most` names the rest is counted."""
    quoted = [f"'{name}'" for name in names]
    if len(quoted) > most:
        return f"{', '.join(quoted[:most])} {word} {len(quoted) - most} more"
    return f" {word} ".join(part for part in (", ".join(quoted[:-1]), *quoted[-1:]) if part)


def warnings(
    pipeline: "Pipeline",
    graph: "Graph",
    facts: Mapping[str, Facts],
    only: Container[str] | None = None,
) -> list[Problem]:
    """The warnings about the jobs, and what notices need, at the places where they were written."""
    said: dict[SpecWarning, list[str]] = {}
    for name in graph.order:
        if only is not None and pipeline.made.owner(name) not in only:
            continue
        inputs = {place: facts[source] for place, source in graph.edges[name]}
        for warning in pipeline.specs[name].warnings(inputs):
            said.setdefault(warning, []).append(name)
    found = [_problem(pipeline, warning, names) for warning, names in said.items()]
    return [*found, *_unset(pipeline)]


def _unset(pipeline: "Pipeline") -> Iterator[Problem]:
    """Variables of the pipeline's channels that are not set on this machine."""
    for at, name, variable in pipeline.notify.variables() if pipeline.notify else ():
        if not os.environ.get(variable):
            place = pipeline.places.place(("notify", at, name))
            what = f"notify.{at}.{name}: the variable {variable} is not set here"
            yield Problem(*place, what, "set it where the run is supervised: here, or on the nodes")


def _problem(pipeline: "Pipeline", warning: SpecWarning, jobs: list[str]) -> Problem:
    origins = pipeline.made.origins
    names = dict.fromkeys(origins[job].short if job in origins else job for job in jobs)
    intro = f"job{'s' if len(names) > 1 else ''} {listed(names, 'and')}"
    place = pipeline.places.place(pipeline.made.written(field_path(jobs[0], warning.field)))
    return Problem(*place, f"{intro}, {warning.field}: {warning.what}", warning.fix)


def as_warning(problem: Problem) -> str:
    """A warning as people read it, distinguished from a mistake."""
    head = f"{problem.where}: warning: {problem.what}"
    return f"{head}\n  fix: {problem.fix}" if problem.fix else head
