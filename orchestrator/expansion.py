"""Makes the jobs of a pipeline from what was written: groups become one job per iteration.

What is wrong with a job of a group is told once, at the line of the group, however many iterations
have it; where only some do, they are named.
"""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.placeholders import PLACEHOLDER, fill, placeholders
from slimctl.jobs.base.registry import nearest, parse_job
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.orchestrator.fields import Subject, value_at
from slimctl.orchestrator.groups import (
    MEMBER_PATTERN,
    UNFILLED,
    Group,
    Iteration,
    Iterations,
    Origin,
    read_iterations,
)
from slimctl.orchestrator.messages import NAME_PATTERN, NAME_RULE, explain, name_fix, shown
from slimctl.orchestrator.problems import Mistake
from slimctl.orchestrator.stand_ins import meant_keys

MEMBER_RULE = "1 to 64 letters, digits, '_' or '-', the first one a letter or digit"


@dataclass
class Expansion:
    """The jobs of a pipeline, each by itself.

    Args:
        jobs: name -> spec, or plain data with `kind`.
        origins: job -> its place in a group, for the jobs of groups.
        iterations: group -> its iterations; none if they cannot be told.
        groups: groups whose own keys are right, as written.
        broken: `group.member` of jobs that could not be made, whose absence is no news.
        unfilled: name -> plain data with placeholders, of those jobs: what is wrong with them
            whatever the values are is told all the same.
        mistakes: what is wrong with the groups themselves.
    """

    jobs: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    iterations: dict[str, list[Iteration]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    unfilled: dict[str, Any] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


def is_group(value: Any) -> bool:
    """Whether what stands under a name in `jobs` is a group."""
    if isinstance(value, Group):
        return True
    if not isinstance(value, Mapping) or "kind" in value:
        return False
    return "for_each" in value or isinstance(value.get("jobs"), Mapping)


def expand(jobs: Mapping[str, Any]) -> Expansion:
    """Makes all jobs of a pipeline.

    Args:
        jobs: name -> spec, group, or plain data of one.
    """
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
    made.mistakes += _taken_names(jobs, made)
    return made


def _taken_names(jobs: Mapping[str, Any], made: Expansion) -> Iterator[Mistake]:
    """Jobs that are called as all jobs of a group together are."""
    taken = {f"{name}.{member}" for name, group in made.groups.items() for member in group.jobs}
    for name in taken.intersection(map(str, jobs)):
        what = f"'{name}' means the jobs '{name.partition('.')[2]}' of the group"
        yield Mistake(("jobs", name), what, "give this job another name")


def _expand_group(name: str, value: Any, jobs: Mapping[str, Any], made: Expansion) -> None:
    made.iterations[name] = []
    group, told = (value, False) if isinstance(value, Group) else _read_group(name, value, made)
    if group is None:
        made.broken.add(name)
        return
    made.groups[name] = group
    read = Iterations([], (), [])
    if group.for_each or not told:
        read = read_iterations(name, group.for_each, _parts(name, group, jobs))
    made.mistakes += read.mistakes
    templates = {}
    for member, template in group.jobs.items():
        wrong = _template_mistakes(name, member, template, read.variables, read.found)
        made.mistakes += wrong if read.variables else []
        if wrong or not read.found:
            _leave_unfilled(Origin(name, UNFILLED, member), template, made)
        else:
            templates[member] = template
    made.mistakes += _unused(name, group, read.variables)
    made.iterations[name] = read.found
    _make_jobs(name, templates, made)


def _leave_unfilled(origin: Origin, template: Any, made: Expansion) -> None:
    made.broken.add(origin.short)
    if not is_group(template):
        made.unfilled[origin.name] = template
        made.origins[origin.name] = origin


def _make_jobs(group: str, templates: Mapping[str, Any], made: Expansion) -> None:
    for iteration in made.iterations[group]:
        text = iteration.name
        for member, template in templates.items():
            origin = Origin(group, text, member)
            made.jobs[origin.name] = fill(template, iteration.values)
            made.origins[origin.name] = origin


def _read_group(name: str, value: Mapping[str, Any], made: Expansion) -> tuple[Group | None, bool]:
    """A group as far as it is right, and whether something is told of its keys."""
    fields = {str(key): item for key, item in value.items()}
    try:
        return Group.model_validate(fields), False
    except ValidationError as error:
        subject = Subject(Group, fields, ("jobs", name), f"group '{name}': ", "a group")
        made.mistakes += explain(error, subject)
    meant = meant_keys(fields, Group)
    known = {meant.get(key) or key: item for key, item in fields.items()}
    for part in (known, {**known, "for_each": {}}):
        with contextlib.suppress(ValidationError):  # it is told
            right = {key: part.get(key) for key in Group.model_fields}
            return Group.model_validate(right), True
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
        return 0  # what is wrong with it is told where it stands
    count = spec.parts()
    if not count:
        what = f"group '{group}': {variable} cannot iterate over '{job}': "
        what += f"a {output_type(type(spec)).__name__} has no parts"
        return Mistake(path, what, "write a list of values", "value")
    return count


def _parsed(value: Any) -> JobSpec:
    return parse_job(value["kind"], {key: item for key, item in value.items() if key != "kind"})


def _template_mistakes(
    group: str, member: str, template: Any, variables: Iterable[str], found: list[Iteration]
) -> list[Mistake]:
    """What is wrong with a job of a group whatever the values are."""
    path = ("jobs", group, "jobs", member)
    if not re.fullmatch(MEMBER_PATTERN, member):
        what = f"group '{group}': a job's name must be {MEMBER_RULE}, not {shown(member)}"
        return [Mistake(path, what, name_fix(re.sub(r"\.|\$\{.*?\}", "-", member)))]
    if is_group(template):
        what = f"group '{group}': '{member}' is a group, and a group holds no other groups"
        return [Mistake(path, what, "name the variables of both in one for_each: they multiply")]
    known = set(variables)
    mixed = {
        name for name in known for one in found if isinstance(one.values[name], (Mapping, list))
    }
    wrong = []
    for place, name in placeholders(template):
        where, intro = (*path, *place), f"job '{group}.{member}'"
        if name not in known:
            what = f"{intro}: the group has no variable '{name}'"
            fix = f"{nearest(name, known)}" if known else "name it in for_each"
            wrong.append(Mistake(where, what, fix, "value"))
        elif name in mixed and not PLACEHOLDER.fullmatch(value_at(template, place)):
            what = f"{intro}: {name} is more than one value and cannot stand inside a text"
            wrong.append(Mistake(where, what, f"write '${{{name}}}' alone", "value"))
    return wrong


def _unused(name: str, group: Group, variables: Iterable[str]) -> Iterator[Mistake]:
    """Variables that change nothing: each of their values would give the same results."""
    used = {variable for _, variable in placeholders(group.jobs)}
    known = [*variables]
    misspelt = [close for one in used for close in difflib.get_close_matches(one, known, 1, 0.5)]
    for variable in known:
        if variable not in used and variable not in misspelt:
            what = f"group '{name}': no job uses {variable}, so all its values give the same"
            fix = f"write '${{{variable}}}' in a field of a job, or remove {variable}"
            yield Mistake(("jobs", name, "for_each", variable), what, fix)
