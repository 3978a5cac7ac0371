"""Checks the jobs of a pipeline together and finds every mistake in one go.

A job whose own fields are wrong still takes part in the check of the references, by its kind and by
what its fields say; only what is known of results is not followed through it.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import ValidationError

from jobs.base.errors import UserError
from jobs.base.refs import Ref
from jobs.base.registry import kind_names, kind_of, load_kind
from jobs.base.spec import JobSpec, output_type
from orchestrator.fields import Subject
from orchestrator.graph import (
    cycles,
    expectations,
    links_of,
    reachable,
    ref_fields,
    topological_order,
    users_in,
)
from orchestrator.messages import (
    NAME_PATTERN,
    NAME_RULE,
    explain,
    name_fix,
    shown,
    truth_mistakes,
)
from orchestrator.problems import Mistake, listed

MAX_SEARCHES = 50
"""References for which the jobs that would do are searched: it takes a walk over the graph."""


class Link(NamedTuple):
    """A field that names a job, right or wrong."""

    job: str
    field: str
    source: str
    """The name given."""
    accepted: tuple[type, ...]
    """Handle types that the field takes."""


@dataclass
class CheckedJobs:
    """What the check of the jobs found.

    Args:
        specs: jobs whose own fields are right.
        kinds: spec class of each job whose kind is known.
        links: every reference.
        mistakes: everything that is wrong.
    """

    specs: dict[str, JobSpec] = field(default_factory=dict)
    kinds: dict[str, type[JobSpec]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)


def check_jobs(jobs: Mapping[str, Any]) -> CheckedJobs:
    """Checks each job, then the references between them, then what is known of their results.

    Args:
        jobs: name -> spec, or plain data with `kind`.
    """
    checked = CheckedJobs()
    for name, value in jobs.items():
        if not re.fullmatch(NAME_PATTERN, str(name)):
            what = f"a job's name must be {NAME_RULE}, not {shown(name)}"
            checked.mistakes.append(Mistake(("jobs", name), what, name_fix(str(name))))
        _read_job(str(name), value, checked)
    names = [str(name) for name in jobs]
    edges: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for link in checked.links:
        if link.source in edges and link.source != link.job:
            edges[link.job].append((link.field, link.source))
    users = users_in(edges)
    checked.mistakes += _link_mistakes(checked, names, users)
    checked.mistakes += _cycle_mistakes(edges)
    wrong = {str(mistake.path[1]) for mistake in checked.mistakes}
    sound = {name: spec for name, spec in checked.specs.items() if name not in wrong}
    checked.mistakes += expectations(sound, edges, topological_order(edges))[1]
    return checked


def _read_job(name: str, value: Any, checked: CheckedJobs) -> None:
    """Adds a job, its links and the mistakes in its own fields to what is checked."""
    if isinstance(value, JobSpec):
        _add_spec(name, value, checked)
        return
    cls, mistake = _kind_class(name, value)
    if cls is None:
        checked.mistakes += [mistake] if mistake else []
        return
    fields = {str(key): item for key, item in value.items() if key != "kind"}
    subject = Subject(cls, fields, ("jobs", name), f"job '{name}': ", value["kind"])
    checked.kinds[name] = cls
    try:
        spec = cls.model_validate(fields)
    except ValidationError as error:
        checked.mistakes += explain(error, subject)
        given = {key: fields.get(key) for key in ref_fields(cls)}
        links = [(key, _named(item)) for key, item in given.items() if _named(item)]
    else:
        checked.specs[name] = spec
        links = links_of(spec)
    told = {mistake.path for mistake in checked.mistakes}
    checked.mistakes += [one for one in truth_mistakes(subject) if one.path not in told]
    checked.links += [Link(name, key, job, ref_fields(cls)[key]) for key, job in links]


def _add_spec(name: str, spec: JobSpec, checked: CheckedJobs) -> None:
    cls = type(spec)
    try:
        kind_of(spec)
    except TypeError as error:
        fix = "put it into the entry-point group 'slimctl.kinds' of an installed package"
        checked.mistakes.append(Mistake(("jobs", name), f"job '{name}': {error}", fix))
        return
    checked.kinds[name], checked.specs[name] = cls, spec
    checked.links += [Link(name, key, job, ref_fields(cls)[key]) for key, job in links_of(spec)]


def _named(value: Any) -> str:
    return value.job if isinstance(value, Ref) else value if isinstance(value, str) else ""


def _kind_class(name: str, value: Any) -> tuple[type[JobSpec] | None, Mistake | None]:
    """The spec class that a job's `kind` names, or why there is none."""
    path = ("jobs", name)
    some = "kind: load_dataset"
    if not isinstance(value, Mapping):
        what = f"job '{name}' must be a mapping with 'kind', not {shown(value)}"
        return None, Mistake(path, what, f"write '{name}: {{{some}, ...}}'", "value")
    if "kind" not in value:
        close = difflib.get_close_matches("kind", [str(key) for key in value], n=1, cutoff=0.7)
        fix = f"write 'kind' instead of '{close[0]}'" if close else _kinds_fix()
        return None, Mistake((*path, *close), f"job '{name}' has no kind", fix)
    kind = value["kind"]
    if not isinstance(kind, str):
        what = f"job '{name}': kind must be the name of a job kind, not {shown(kind)}"
        return None, Mistake((*path, "kind"), what, _kinds_fix(), "value")
    try:
        return load_kind(kind), None
    except UserError as error:
        what = f"job '{name}': {error.what}"
        return None, Mistake((*path, "kind"), what, error.fix, "value")


def _kinds_fix() -> str:
    return f"add 'kind: ...', one of {', '.join(kind_names())}"


def _link_mistakes(
    checked: CheckedJobs, names: list[str], users: Mapping[str, list[str]]
) -> Iterator[Mistake]:
    searches = 0
    for link in checked.links:
        what = _wrong_link(link, checked, users)
        if what:
            searches += 1
            fix = f"name a job that makes {_types(link.accepted)}"
            if searches <= MAX_SEARCHES:
                fix = _link_fix(link, checked, names, users)
            yield Mistake(("jobs", link.job, link.field), what, fix, "value")


def _wrong_link(link: Link, checked: CheckedJobs, known: Iterable[str]) -> str:
    """What is wrong with a reference; "" if nothing is."""
    job, name, source, accepted = link
    if source == job:
        return f"job '{job}' needs its own result as {name}"
    if source not in known:
        return f"job '{job}' needs '{source}' as {name}, but there is no such job"
    if source in checked.kinds and not issubclass(output_of(checked.kinds[source]), accepted):
        made = output_of(checked.kinds[source]).__name__
        return (
            f"job '{job}' needs {_types(accepted)} as {name}, but '{source}' makes "
            f"{_with_article(made)}"
        )
    return ""


def _link_fix(
    link: Link, checked: CheckedJobs, names: list[str], users: Mapping[str, list[str]]
) -> str:
    """Jobs that would do: they make the right thing and do not need the job themselves."""
    later = {link.job, *reachable(link.job, users)}
    fitting = [name for name in names if name not in later and _may_make(link, checked, name)]
    if link.source not in users:
        close = difflib.get_close_matches(link.source, fitting, n=1, cutoff=0.5)
        if close:
            return f"did you mean '{close[0]}'?"
    fitting = [name for name in fitting if name in checked.kinds]
    if fitting:
        return f"use {listed(fitting)}"
    kinds = [name for name in kind_names() if issubclass(output_of(load_kind(name)), link.accepted)]
    kind = f" (kind: {' or '.join(kinds)})" if kinds else ""
    return f"add a job that makes {_types(link.accepted)}{kind}"


def _may_make(link: Link, checked: CheckedJobs, name: str) -> bool:
    cls = checked.kinds.get(name)
    return cls is None or issubclass(output_of(cls), link.accepted)


def _cycle_mistakes(edges: Mapping[str, list[tuple[str, str]]]) -> Iterator[Mistake]:
    rank = {name: number for number, name in enumerate(edges)}
    for found in cycles(edges):
        first = min(range(len(found) - 1), key=lambda number: rank[found[number]])
        circle = [*found[first:-1], *found[: first + 1]]
        fields = [
            next(field for field, source in edges[job] if source == following)
            for job, following in pairwise(circle)
        ]
        what = f"job '{circle[0]}' needs its own result in the end: {' -> '.join(circle)}"
        places = [f"jobs.{job}.{field}" for job, field in zip(circle, fields, strict=False)]
        yield Mistake(("jobs", circle[0], fields[0]), what, f"change {listed(places)}", "value")


@cache
def output_of(kind: type[JobSpec]) -> type:
    """The handle type that a kind makes."""
    return output_type(kind)


def _types(types: Iterable[type]) -> str:
    return " or ".join(_with_article(one.__name__) for one in types)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
