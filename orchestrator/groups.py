"""The one construct for repetition: a named group of jobs, made once for each of some values.

    students:
      for_each: {width: [8, 16], seed: [0, 1, 2]}
      jobs:
        student: {kind: anneal_reflow, pairs: pairs, seed: "${seed}", ...}
        quality: {kind: evaluate, model: student, ...}

A group stands in the pipeline as it was written; its jobs are made from it when the pipeline is
checked. A job of an iteration is called `students.width=8.seed=0.quality`: names follow from the
values alone, so that adding a value renames nothing, and since no name that a user gives holds a
`=`, they meet no other name. They need no quotes in a shell or in YAML.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_serializer,
    field_validator,
    model_validator,
)

from slimctl.jobs.base.keys import canonical_json
from slimctl.jobs.base.placeholders import VARIABLE_PATTERN
from slimctl.models.spec import Spec
from slimctl.orchestrator.by_object import Objects, as_template, objects_in
from slimctl.orchestrator.problems import Mistake, Path, listed

MEMBER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Names of groups and of the jobs in them: they are joined by dots."""
MAX_ITERATIONS = 100_000
MAX_LABEL = 32
"""Characters of a value in the name of a job; longer ones are shortened and numbered by hash."""

_FORMS = (
    "write 'seed: [0, 1, 2]', 'size: {small: ..., large: ...}', or the name of a job with parts"
)


class Group(Spec):
    """Jobs that are made once for each value of some variables.

    In the jobs `${seed}` stands for the value of the variable `seed`; a job names its siblings, of
    its own iteration, by their plain names. A job outside names `students.quality` (all of them,
    where the field takes many), `students[width=8].quality` (some) or
    `students[width=8,seed=0].quality` (one).

    In `for_each` every combination of the variables' values is made. Values are a list, a mapping
    of short names to values, or the name of a job whose parts are iterated over (0, 1, ...). A list
    of mappings asks for those combinations alone.
    """

    for_each: Mapping[str, Any] | tuple[Mapping[str, Any], ...]
    """Variables with their values, such as `seed: [0, 1, 2]`; or a list of combinations."""
    jobs: Mapping[str, Any] = Field(min_length=1)
    """Name -> job, with placeholders such as `${seed}` in any field."""

    _members: Objects = PrivateAttr(default_factory=Objects)

    @field_validator("jobs", mode="before")
    @classmethod
    def _as_templates(cls, jobs: Any) -> Any:
        """Specs made in Python become plain data, which can hold placeholders."""
        if not isinstance(jobs, Mapping):
            return jobs
        siblings = objects_in(jobs)
        return {name: as_template(job, siblings) for name, job in jobs.items()}

    @model_validator(mode="wrap")
    @classmethod
    def _with_members(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keeps which objects its jobs were, so that jobs outside can refer to them."""
        group = handler(data)
        jobs = data.get("jobs") if isinstance(data, Mapping) else None
        if isinstance(jobs, Mapping):
            group._members = objects_in(jobs)  # noqa: SLF001  (of this class)
        return group

    def objects(self, name: str) -> Objects:
        """Its jobs that were given as objects, by the names that jobs outside use.

        Args:
            name: of the group.
        """
        named = {key: (f"{name}.{member}", job) for key, (member, job) in self._members.items()}
        return Objects(named)

    @field_serializer("for_each")
    def _in_order(self, for_each: Any) -> Any:
        return for_each if isinstance(for_each, Mapping) else list(for_each)


@dataclass(frozen=True)
class Iteration:
    """One combination of values.

    Args:
        labels: variable -> value as it stands in names.
        values: variable -> value.
    """

    labels: Mapping[str, str]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`width=8.seed=0`."""
        return ".".join(f"{name}={label}" for name, label in self.labels.items())


UNFILLED = "?"
"""In place of an iteration: a job with its placeholders, whose values cannot be told."""


@dataclass(frozen=True)
class Origin:
    """Where a job comes from.

    Args:
        group: name of the group.
        iteration: such as `width=8.seed=0`.
        member: name of the job in the group.
    """

    group: str
    iteration: str
    member: str

    @property
    def name(self) -> str:
        """Name of the job."""
        return f"{self.group}.{self.iteration}.{self.member}"

    @property
    def short(self) -> str:
        """What all iterations have in common: `students.quality`."""
        return f"{self.group}.{self.member}"


def origin_of(job: str) -> Origin | None:
    """The group that a job belongs to, read from its name; None if it stands alone."""
    if "=" not in job:
        return None
    group, _, rest = job.partition(".")
    iteration, _, member = rest.rpartition(".")
    return Origin(group, iteration, member)


def split_iteration(iteration: str) -> list[str]:
    """`width=8.seed=0` as [`width=8`, `seed=0`]; values may hold dots."""
    return re.split(r"\.(?=[A-Za-z_][A-Za-z0-9_]*=)", iteration)


def label_of(value: Any) -> str:
    """A value as it stands in the name of a job; it depends on nothing but the value."""
    leaves = "-".join(_leaf(leaf) for leaf in _leaves(value))
    text = re.sub(r"[^A-Za-z0-9_.+-]+", "-", leaves).strip(".-" if isinstance(value, str) else ".")
    if text and len(text) <= MAX_LABEL and (leaves == text or not isinstance(value, str)):
        return text
    digest = hashlib.sha256(canonical_json(value).encode()).hexdigest()[:6]
    return f"{text[: MAX_LABEL - 7]}-{digest}".lstrip("-")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    else:
        yield value


def _leaf(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)


@dataclass
class Iterations:
    """What a group's `for_each` stands for.

    Args:
        found: the combinations, in order, as far as they can be told.
        variables: names that the jobs may use.
        mistakes: what is wrong with it.
    """

    found: list[Iteration]
    variables: tuple[str, ...]
    mistakes: list[Mistake]


def read_iterations(group: str, for_each: Any, parts: Mapping[str, int | Mistake]) -> Iterations:
    """Reads `for_each`.

    Args:
        group: name of the group.
        for_each: what the user wrote.
        parts: for each variable that names a job, the number of its parts, or why it has none.
    """
    path: Path = ("jobs", group, "for_each")
    if isinstance(for_each, Mapping) and for_each:
        return _product(group, path, for_each, parts)
    if isinstance(for_each, (list, tuple)) and for_each:
        return _combinations(group, path, for_each)
    what = f"group '{group}': for_each must name at least one variable with its values"
    return Iterations([], (), [Mistake(path, what, _FORMS, "value")])


def _product(
    group: str, path: Path, for_each: Mapping[str, Any], parts: Mapping[str, int | Mistake]
) -> Iterations:
    mistakes: list[Mistake] = []
    columns: list[list[tuple[str, Any]]] = []
    for name, given in for_each.items():
        mistakes += _wrong_variable(group, (*path, name), name)
        column, wrong = _values(group, (*path, name), name, given, parts)
        columns.append(column)
        mistakes += wrong
    count = math.prod(len(column) for column in columns)
    variables = tuple(map(str, for_each))
    if count > MAX_ITERATIONS:
        what = f"group '{group}': for_each stands for {count:,} combinations"
        mistakes.append(Mistake(path, what, f"use at most {MAX_ITERATIONS:,}"))
    if mistakes:
        return Iterations([], variables, mistakes)
    found = [_iteration(variables, row) for row in itertools.product(*columns)]
    return Iterations(found, variables, [])


def _iteration(variables: Sequence[str], row: Sequence[tuple[str, Any]]) -> Iteration:
    labels = {name: label for name, (label, _) in zip(variables, row, strict=True)}
    values = {name: value for name, (_, value) in zip(variables, row, strict=True)}
    return Iteration(labels, values)


def _wrong_variable(group: str, path: Path, name: object) -> Iterator[Mistake]:
    if not re.fullmatch(VARIABLE_PATTERN, str(name)):
        what = f"group '{group}': '{name}' cannot be the name of a variable"
        yield Mistake(path, what, "use up to 32 letters, digits and '_', such as 'seed'")


def _values(
    group: str, path: Path, name: str, given: Any, parts: Mapping[str, int | Mistake]
) -> tuple[list[tuple[str, Any]], list[Mistake]]:
    """(label, value) for each value of a variable, and what is wrong with them."""
    if isinstance(given, str):
        count = parts.get(name, 0)
        if isinstance(count, Mistake):
            return [], [count]
        return [(str(number), number) for number in range(count)], []
    if isinstance(given, Mapping) and given:
        pairs = [(str(label), value) for label, value in given.items()]
        wrong = [label for label, _ in pairs if not re.fullmatch(MEMBER_PATTERN, label)]
        what = f"group '{group}': {listed(wrong, 'and')} cannot stand in the name of a job"
        fix = "use letters, digits, '_' and '-'"
        return pairs, [Mistake(path, what, fix)] if wrong else []
    if isinstance(given, (list, tuple)) and given:
        pairs = [(label_of(value), value) for value in given]
        return pairs, list(_repeated(group, path, name, [label for label, _ in pairs]))
    kind = "has no values" if given in ([], (), {}, None) else f"has one value, {given!r}"
    return [], [Mistake(path, f"group '{group}': {name} {kind}", _FORMS, "value")]


def _repeated(group: str, path: Path, name: str, labels: Sequence[str]) -> Iterator[Mistake]:
    """Values that are equal, or too much alike for their names."""
    seen: dict[str, int] = {}
    for number, label in enumerate(labels):
        if label in seen:
            what = f"group '{group}': {name} has the value '{label}' twice"
            fix = f"remove one, or tell them apart: '{name}: {{a: ..., b: ...}}'"
            yield Mistake((*path, number), what, fix, "value")
        seen[label] = number


def _combinations(group: str, path: Path, rows: Sequence[Any]) -> Iterations:
    first = next((row for row in rows if isinstance(row, Mapping)), {})
    variables = tuple(map(str, first))
    mistakes = [wrong for name in variables for wrong in _wrong_variable(group, path, name)]
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not row:
            what = f"group '{group}': a combination must be a mapping of variables to values"
            mistakes.append(Mistake((*path, number), what, "write '- {seed: 0}'", "value"))
        elif set(row) != set(first):
            what = f"group '{group}': this combination has {listed(row, 'and')}"
            what += f", the first one {listed(first, 'and')}"
            mistakes.append(Mistake((*path, number), what, "give all the same variables"))
    if mistakes:
        return Iterations([], variables, mistakes)
    found = [_iteration(variables, [(label_of(row[v]), row[v]) for v in variables]) for row in rows]
    names = [iteration.name for iteration in found]
    return Iterations(found, variables, list(_repeated(group, path, "for_each", names)))
