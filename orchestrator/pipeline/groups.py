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

What is wrong with a job of a group is said once, at the line of the group, however many iterations
have it; where only some do, they are named.
"""

import contextlib
import difflib
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import canonical_json
from slimctl.jobs.base.placeholders import PLACEHOLDER, VARIABLE_PATTERN, fill, placeholders
from slimctl.jobs.base.registry import load_kind, nearest, parse_job
from slimctl.jobs.base.spec import JobSpec, output_type, ref_fields
from slimctl.jobs.search.spec import Dimension, SearchSpec, corners, dimensions
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline.diagnostics import KeyPath, Mistake, listed
from slimctl.orchestrator.pipeline.explain import (
    NAME_PATTERN,
    NAME_RULE,
    Subject,
    explain,
    name_fix,
    shown,
    value_at,
)
from slimctl.orchestrator.pipeline.objects import Objects, as_template, objects_in

MEMBER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Names of groups and of the jobs in them: they are joined by dots."""
MEMBER_RULE = "1 to 64 letters, digits, '_' or '-', the first one a letter or digit"
MAX_ITERATIONS = 100_000
MAX_LABEL = 32
"""Characters of a value in the name of a job; longer ones are shortened and numbered by hash."""
MAX_SAID = 3
"""Different mistakes of iterations at one place that are said each; the rest is counted."""

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
        """Its jobs that were given as objects, by the names that jobs outside use."""
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


def trial_iteration(values: Mapping[str, Any], space: Mapping[str, Dimension]) -> Iteration:
    """The iteration that a search's trial is; a hash keeps like choices apart."""
    labels = {name: label_of(value) for name, value in values.items()}
    for name, one in space.items():
        alike = [label_of(choice) == labels[name] for choice in one.choice or ()]
        if sum(alike) > 1:
            labels[name] = f"{labels[name][: MAX_LABEL - 7]}-{_digest(values[name])}"
    return Iteration(labels, values)


UNFILLED = "?"
"""In place of an iteration: a job with its placeholders, whose values cannot be known."""


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
    return f"{text[: MAX_LABEL - 7]}-{_digest(value)}".lstrip("-")


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:6]


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
        found: the combinations, in order, as far as they can be known.
        variables: names that the jobs may use.
        mistakes: what is wrong with it.
    """

    found: list[Iteration]
    variables: tuple[str, ...]
    mistakes: list[Mistake]


def read_iterations(group: str, for_each: Any, parts: Mapping[str, int | Mistake]) -> Iterations:
    """Reads `for_each`."""
    path: KeyPath = ("jobs", group, "for_each")
    if isinstance(for_each, Mapping) and for_each:
        return _product(group, path, for_each, parts)
    if isinstance(for_each, (list, tuple)) and for_each:
        return _combinations(group, path, for_each)
    what = f"group '{group}': for_each must name at least one variable with its values"
    return Iterations([], (), [Mistake(path, what, _FORMS, "value")])


def _product(
    group: str, path: KeyPath, for_each: Mapping[str, Any], parts: Mapping[str, int | Mistake]
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


def _wrong_variable(group: str, path: KeyPath, name: object) -> Iterator[Mistake]:
    if not re.fullmatch(VARIABLE_PATTERN, str(name)):
        what = f"group '{group}': '{name}' cannot be the name of a variable"
        yield Mistake(path, what, "use up to 32 letters, digits and '_', such as 'seed'")


def _values(
    group: str, path: KeyPath, name: str, given: Any, parts: Mapping[str, int | Mistake]
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


def _repeated(group: str, path: KeyPath, name: str, labels: Sequence[str]) -> Iterator[Mistake]:
    """Values that are equal, or too much alike for their names."""
    seen: dict[str, int] = {}
    for number, label in enumerate(labels):
        if label in seen:
            what = f"group '{group}': {name} has the value '{label}' twice"
            fix = f"remove one, or tell them apart: '{name}: {{a: ..., b: ...}}'"
            yield Mistake((*path, number), what, fix, "value")
        seen[label] = number


def _combinations(group: str, path: KeyPath, rows: Sequence[Any]) -> Iterations:
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


@dataclass
class Expansion:
    """The jobs of a pipeline, each by itself.

    Args:
        jobs: name -> spec, or plain data with `kind`. Jobs of a group whose values cannot be known
            stand here once, in the iteration `UNFILLED`, with their placeholders: what is wrong
            with them whatever the values are is said all the same.
        origins: job -> its place in a group, for the jobs of groups.
        iterations: group -> its iterations; none if they cannot be known.
        groups: groups whose own keys are right, as written.
        searches: names of those that are searches: of their trials only those at the ends of every
            variable are here, to be checked; the run makes the others as they are proposed.
        broken: groups, and `group.member` of jobs, that could not be made: their absence is no
            news.
        mistakes: what is wrong with the groups themselves.
    """

    jobs: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    iterations: dict[str, list[Iteration]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    searches: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    mistakes: list[Mistake] = field(default_factory=list)

    def owner(self, job: str) -> str:
        """The search whose trial a job is an example of; the job itself where it is none."""
        origin = self.origins.get(job)
        return origin.group if origin and origin.group in self.searches else job

    def variables(self, group: str) -> str:
        """The key of a group that names its variables."""
        return "space" if group in self.searches else "for_each"

    def written(self, path: KeyPath) -> KeyPath:
        """The path of a job's field where the user wrote it: in a group for the jobs of groups."""
        while len(path) > 1 and (origin := self.origins.get(str(path[1]))):
            path = ("jobs", origin.group, "jobs", origin.member, *path[2:])
        return path


def is_group(value: Any) -> bool:
    """Whether what stands under a name in `jobs` is a group."""
    if isinstance(value, Group):
        return True
    if not isinstance(value, Mapping) or "kind" in value:
        return False
    return "for_each" in value or isinstance(value.get("jobs"), Mapping)


def expand(jobs: Mapping[str, Any]) -> Expansion:
    """Makes all jobs of a pipeline."""
    made = Expansion()
    for given, value in jobs.items():
        name = str(given)
        group = is_group(value)
        pattern, rule = (MEMBER_PATTERN, MEMBER_RULE) if group else (NAME_PATTERN, NAME_RULE)
        if not re.fullmatch(pattern, name):
            what = f"a {'group' if group else 'job'}'s name must be {rule}, not {shown(given)}"
            fix = name_fix(name.replace(".", "-") if group else name)
            made.mistakes.append(Mistake(("jobs", given), what, fix))
        if group:
            _expand_group(name, value, jobs, made)
        else:
            made.jobs[name] = value
    for name, value in [*made.jobs.items()]:
        _expand_search(name, value, made)
    made.mistakes += _taken_names(jobs, made)
    return made


def _expand_search(name: str, value: Any, made: Expansion) -> None:
    """Makes the jobs of some trials, to be checked like those of a group."""
    if isinstance(value, SearchSpec):
        value = {"space": value.space, "jobs": value.jobs}
    elif not _is_search(value):
        return
    space = value.get("space") if isinstance(value.get("space"), Mapping) else {}
    jobs = {str(member): template for member, template in value["jobs"].items()}
    made.searches.add(name)
    made.groups[name] = Group.model_construct(for_each=space, jobs=jobs)
    known = dimensions(space)
    made.iterations[name] = [trial_iteration(values, known) for values in corners(known)]
    _take_templates(name, [*map(str, space)], made)


def _is_search(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("jobs"), Mapping):
        return False
    try:
        return issubclass(load_kind(value["kind"]), SearchSpec)
    except (UserError, TypeError, KeyError):
        return False


def _taken_names(jobs: Mapping[str, Any], made: Expansion) -> Iterator[Mistake]:
    """Jobs that are called as all jobs of a group together are."""
    taken = {f"{name}.{member}" for name, group in made.groups.items() for member in group.jobs}
    for name in taken.intersection(map(str, jobs)):
        what = f"'{name}' means the jobs '{name.partition('.')[2]}' of the group"
        yield Mistake(("jobs", name), what, "give this job another name")


def _expand_group(name: str, value: Any, jobs: Mapping[str, Any], made: Expansion) -> None:
    made.iterations[name] = []
    group, reported = (value, False) if isinstance(value, Group) else _read_group(name, value, made)
    if group is None:
        made.broken.add(name)
        return
    made.groups[name] = group
    read = Iterations([], (), [])
    if group.for_each or not reported:
        read = read_iterations(name, group.for_each, _parts(name, group, jobs))
    made.mistakes += read.mistakes
    made.iterations[name] = read.found
    _take_templates(name, read.variables, made)


def _take_templates(name: str, variables: Sequence[str], made: Expansion) -> None:
    """Makes the jobs of a group's iterations, as far as its templates are right."""
    templates = {}
    for member, template in made.groups[name].jobs.items():
        wrong = _template_mistakes(name, member, template, variables, made)
        made.mistakes += wrong if variables else []
        if wrong or not made.iterations[name]:
            _leave_unfilled(Origin(name, UNFILLED, member), template, made)
        else:
            templates[member] = template
    made.mistakes += _unused(name, variables, made)
    _make_jobs(name, templates, made)


def _leave_unfilled(origin: Origin, template: Any, made: Expansion) -> None:
    made.broken.add(origin.short)
    if not is_group(template):
        made.jobs[origin.name] = template
        made.origins[origin.name] = origin


def _make_jobs(group: str, templates: Mapping[str, Any], made: Expansion) -> None:
    for iteration in made.iterations[group]:
        text = iteration.name
        for member, template in templates.items():
            origin = Origin(group, text, member)
            made.jobs[origin.name] = fill(template, iteration.values)
            made.origins[origin.name] = origin


def _read_group(name: str, value: Mapping[str, Any], made: Expansion) -> tuple[Group | None, bool]:
    """A group as far as it is right, and whether something is reported of its keys."""
    fields = {str(key): item for key, item in value.items()}
    try:
        return Group.model_validate(fields), False
    except ValidationError as error:
        subject = Subject(Group, fields, ("jobs", name), f"group '{name}': ", "a group")
        made.mistakes += explain(error, subject)
    right = {key: fields[key] for key in Group.model_fields if key in fields}
    for part in (right, {**right, "for_each": {}}):
        with contextlib.suppress(ValidationError):  # it is said
            return Group.model_validate(part), True
    return None, True


def _parts(name: str, group: Group, jobs: Mapping[str, Any]) -> dict[str, int | Mistake]:
    """For each variable that names a job: how many parts its result has, or why none."""
    if not isinstance(group.for_each, Mapping):
        return {}
    named = {key: job for key, job in group.for_each.items() if isinstance(job, str)}
    return {key: _parts_of(name, key, job, jobs) for key, job in named.items()}


def _parts_of(group: str, variable: str, job: str, jobs: Mapping[str, Any]) -> int | Mistake:
    path = ("jobs", group, "for_each", variable)
    value = jobs.get(job)
    if value is None or is_group(value):
        what = f"group '{group}': {variable} names '{job}', but there is no such job"
        fix = f"write a list of values, or name a job with parts; {nearest(job, map(str, jobs))}"
        return Mistake(path, what, fix, "value")
    try:
        spec = value if isinstance(value, JobSpec) else _parsed(value)
    except (UserError, ValidationError, AttributeError, KeyError, TypeError):
        return 0  # what is wrong with it is reported where it stands
    count = spec.parts()
    if not count:
        what = f"group '{group}': {variable} cannot iterate over '{job}': "
        what += f"a {output_type(type(spec)).__name__} has no parts"
        return Mistake(path, what, "write a list of values", "value")
    return count


def _parsed(value: Any) -> JobSpec:
    return parse_job(value["kind"], {key: item for key, item in value.items() if key != "kind"})


def _template_mistakes(
    group: str, member: str, template: Any, variables: Iterable[str], made: Expansion
) -> list[Mistake]:
    """What is wrong with a job of a group whatever the values are."""
    path: KeyPath = ("jobs", group, "jobs", member)
    searches = group in made.searches
    if not re.fullmatch(MEMBER_PATTERN, member):
        what = f"group '{group}': a job's name must be {MEMBER_RULE}, not {shown(member)}"
        return [Mistake(path, what, name_fix(re.sub(r"\.|\$\{.*?\}", "-", member)))]
    if is_group(template) or (searches and _is_search(template)):
        one = "group" if is_group(template) else "search"
        what = f"group '{group}': '{member}' is a {one}, and a group holds no other groups"
        fix = f"name the variables of both in one {made.variables(group)}: they multiply"
        return [Mistake(path, what, fix)]
    if searches and isinstance(template, Mapping) and [*placeholders(template.get("kind"))]:
        what = f"group '{group}': the kind of '{member}' cannot be searched over"
        return [Mistake((*path, "kind"), what, "name a kind", "value")]
    known, wrong = set(variables), []
    mixed = {
        name
        for name in known
        for one in made.iterations[group]
        if isinstance(one.values[name], (Mapping, list))
    }
    for inside, name in placeholders(template):
        where, intro = (*path, *inside), f"job '{group}.{member}'"
        if name not in known:
            what = f"{intro}: the group has no variable '{name}'"
            fix = nearest(name, known) if known else f"name it in {made.variables(group)}"
            wrong.append(Mistake(where, what, fix, "value"))
        elif name in mixed and not PLACEHOLDER.fullmatch(value_at(template, inside)):
            what = f"{intro}: {name} is more than one value and cannot stand inside a text"
            wrong.append(Mistake(where, what, f"write '${{{name}}}' alone", "value"))
    return wrong


def _unused(name: str, variables: Iterable[str], made: Expansion) -> Iterator[Mistake]:
    """Variables that change nothing: each of their values would give the same results."""
    used = {variable for _, variable in placeholders(made.groups[name].jobs)}
    known = [*variables]
    misspelt = [close for one in used for close in difflib.get_close_matches(one, known, 1, 0.5)]
    for variable in known:
        if variable not in used and variable not in misspelt:
            what = f"group '{name}': no job uses {variable}, so all its values give the same"
            fix = f"write '${{{variable}}}' in a field of a job, or remove {variable}"
            yield Mistake(("jobs", name, made.variables(name), variable), what, fix)


def said_once(mistakes: Iterable[Mistake], made: Expansion) -> list[Mistake]:
    """Mistakes at the paths that the user wrote."""
    found: dict[Mistake, dict[str, None]] = {}  # mistake at its template -> iterations
    groups: dict[Mistake, str] = {}
    for mistake in mistakes:
        origin = made.origins.get(str(mistake.path[1])) if len(mistake.path) > 1 else None
        short = _at_template(mistake, made)
        iterations = found.setdefault(short, {})
        if origin:
            iterations[origin.iteration] = None
            groups[short] = origin.group
    places: dict[KeyPath, list[Mistake]] = {}
    for mistake in found:
        places.setdefault(mistake.path, []).append(mistake)
    said = []
    for path, there in places.items():
        most = MAX_SAID if found[there[0]] else len(there)
        for mistake in there[:most]:
            group = groups.get(mistake, "")
            said.append(_with_iterations(mistake, group, [*found[mistake]], made))
        rest = {name for mistake in there[most:] for name in found[mistake]}
        if rest:
            what = f"{len(rest)} more iterations of '{path[1]}' are wrong here"
            said.append(Mistake(path, what, "repair those above first", there[0].side))
    return said


def _at_template(mistake: Mistake, made: Expansion) -> Mistake:
    """The mistake as it is for every iteration, at the path of the template."""
    what, fix, job = mistake.what, mistake.fix, str([*mistake.path, "", ""][1])
    while origin := made.origins.get(job):
        mine, named, job = f"{origin.group}.{origin.iteration}.", f"{origin.group}.", origin.group
        what, fix = (
            text.replace(f"jobs.{mine}", f"jobs.{named}jobs.").replace(mine, named)
            for text in (what, fix)
        )
    return replace(mistake, path=made.written(mistake.path), what=what, fix=fix)


def _with_iterations(
    mistake: Mistake, group: str, names: Sequence[str], made: Expansion
) -> Mistake:
    """The mistake with the iterations of the group that make it, unless all do."""
    known = {one.name: one for one in made.iterations[group]} if names else {}
    if UNFILLED in names or len(names) == len(known):
        return mistake
    first = ", ".join(f"{key}={label}" for key, label in known[names[0]].labels.items())
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return replace(mistake, what=f"{mistake.what} (with {first}{more})")


def spelt_out(name: str, group: Group, specs: Mapping[str, JobSpec], made: Expansion) -> Group:
    """A group whose saved form says all that its jobs do: what all iterations have in common."""
    iterations = made.iterations[name]
    jobs = {}
    for member, template in group.jobs.items():
        mine = [specs[Origin(name, one.name, member).name] for one in iterations]
        jobs[member] = _spelt_job(template, mine, iterations)
    return group.model_copy(update={"jobs": jobs})


def _spelt_job(
    template: Mapping[str, Any], specs: Sequence[JobSpec], iterations: Sequence[Iteration]
) -> Mapping[str, Any]:
    kinds = {type(spec) for spec in specs}
    if len(kinds) > 1:
        return template
    kept = {key: template[key] for key in ("kind", *ref_fields(kinds.pop())) if key in template}
    rest = {key: value for key, value in template.items() if key not in kept}
    dumps = [
        {key: value for key, value in spec.model_dump(mode="json").items() if key not in kept}
        for spec in specs
    ]
    return {**kept, **_spelt(rest, dumps, iterations)}


def _spelt(template: Any, values: Sequence[Any], iterations: Sequence[Iteration]) -> Any:
    """A value of the template, given what it is in each iteration; what differs stays."""
    if isinstance(template, Mapping) and all(isinstance(value, Mapping) for value in values):
        found = {**template}
        for key in values[0]:
            inner = [value.get(key, ...) for value in values]
            if key in template:
                found[key] = _spelt(template[key], inner, iterations)
            elif all(value == inner[0] for value in inner):
                found[key] = inner[0]
        return found
    if "${" not in str(template):
        return values[0] if all(value == values[0] for value in values) else template
    return _absolute(template, values, iterations) if isinstance(template, str) else template


def _absolute(template: str, values: Sequence[Any], iterations: Sequence[Iteration]) -> str:
    """A path with placeholders from the root, if that is what it became in every iteration."""
    short = template.removeprefix("./")
    root = f"{Path.cwd()}/"
    filled = [fill(short, one.values) for one in iterations]
    if all(f"{root}{text}" == value for text, value in zip(filled, values, strict=True)):
        return root.replace("${", "$${") + short
    return template
