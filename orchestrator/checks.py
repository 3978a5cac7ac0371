"""Checks the jobs of a pipeline together and finds every mistake in one go.

A job whose own fields are wrong still takes part in the check of the references, by its kind and by
what its fields say; only what is known of results is not followed through it.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from jobs.base.errors import UserError
from jobs.base.registry import kind_names, kind_of, load_kind
from jobs.base.spec import JobSpec, many_ref_fields, output_type
from orchestrator.expansion import Expansion, expand
from orchestrator.fields import Subject
from orchestrator.graph import (
    cycles,
    expectations,
    field_path,
    reachable,
    ref_fields,
    topological_order,
    users_in,
)
from orchestrator.messages import explain, shown, truth_mistakes
from orchestrator.problems import Mistake, listed
from orchestrator.references import Link, links_in, with_links
from orchestrator.telling import told_once

MAX_SEARCHES = 50
"""References for which the jobs that would do are searched: it takes a walk over the graph."""


@dataclass
class CheckedJobs:
    """What the check of the jobs found.

    Args:
        made: every job by itself.
        written: specs of jobs whose own fields are right, as written.
        specs: the same with every reference naming the job that it means.
        kinds: spec class of each job whose kind is known.
        links: every reference.
        mistakes: everything that is wrong.
    """

    made: Expansion
    written: dict[str, JobSpec] = field(default_factory=dict)
    specs: dict[str, JobSpec] = field(default_factory=dict)
    kinds: dict[str, type[JobSpec]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)


def check_jobs(jobs: Mapping[str, Any]) -> CheckedJobs:
    """Checks each job, then the references between them, then what is known of their results.

    Args:
        jobs: name -> spec or group, or plain data of one.
    """
    checked = CheckedJobs(expand(jobs))
    for name, value in checked.made.jobs.items():
        _read_job(name, value, checked)
    edges: dict[str, list[tuple[str, str]]] = {name: [] for name in checked.made.jobs}
    for link in checked.links:
        if link.source in edges and link.source != link.job and not link.what:
            edges[link.job].append((link.place, link.source))
    checked.mistakes += _link_mistakes(checked, users_in(edges))
    checked.mistakes += _cycle_mistakes(edges)
    wrong = {str(mistake.path[1]) for mistake in checked.mistakes}
    wrong |= {link.job for link in checked.links if not link.source}
    sound = {name: spec for name, spec in checked.specs.items() if name not in wrong}
    checked.mistakes += expectations(sound, edges, topological_order(edges))[1]
    checked.mistakes = [*checked.made.mistakes, *told_once(checked.mistakes, checked.made)]
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
    if "for_each" in fields and "for_each" not in cls.model_fields:
        del fields["for_each"]
        checked.mistakes.append(_lone_for_each(name))
    subject = Subject(cls, fields, ("jobs", name), f"job '{name}': ", value["kind"])
    checked.kinds[name] = cls
    try:
        spec = cls.model_validate(fields)
    except ValidationError as error:
        checked.mistakes += explain(error, subject)
        given = {key: fields.get(key) for key in ref_fields(cls)}
        checked.links += links_in(name, given, cls, checked.made)
    else:
        _keep(name, spec, checked)
    told = {mistake.path for mistake in checked.mistakes}
    checked.mistakes += [one for one in truth_mistakes(subject) if one.path not in told]


def _lone_for_each(name: str) -> Mistake:
    what = f"job '{name}' has a for_each, which belongs to a group of jobs"
    fix = f"write '{name}: {{for_each: ..., jobs: {{NAME: {{kind: ...}}}}}}'"
    return Mistake(("jobs", name, "for_each"), what, fix)


def _keep(name: str, spec: JobSpec, checked: CheckedJobs) -> None:
    """Keeps a spec that is right, and what it refers to."""
    kind = type(spec)
    links = links_in(
        name, {key: getattr(spec, key) for key in ref_fields(kind)}, kind, checked.made
    )
    checked.written[name] = spec
    checked.specs[name] = with_links(spec, links)
    checked.links += links


def _add_spec(name: str, spec: JobSpec, checked: CheckedJobs) -> None:
    try:
        kind_of(spec)
    except TypeError as error:
        fix = "put it into the entry-point group 'slimctl.kinds' of an installed package"
        checked.mistakes.append(Mistake(("jobs", name), f"job '{name}': {error}", fix))
        return
    checked.kinds[name] = type(spec)
    _keep(name, spec, checked)


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


def _link_mistakes(checked: CheckedJobs, users: Mapping[str, list[str]]) -> Iterator[Mistake]:
    searches = 0
    for link in checked.links:
        what, fix = _wrong_link(link, checked, users), link.fix
        if what and not fix:
            searches += 1
            accepted = _types(_accepted(link, checked))
            few = searches <= MAX_SEARCHES
            fix = _link_fix(link, checked, users) if few else f"name a job that makes {accepted}"
        if what:
            yield Mistake(field_path(link.job, link.written), what, fix, "value")


def _accepted(link: Link, checked: CheckedJobs) -> tuple[type, ...]:
    """Handle types that the field of a reference takes."""
    return ref_fields(checked.kinds[link.job])[link.place.partition(".")[0]]


def _wrong_link(link: Link, checked: CheckedJobs, known: Iterable[str]) -> str:
    """What is wrong with a reference; "" if nothing is."""
    job, source, accepted = link.job, link.source, _accepted(link, checked)
    name = link.place.partition(".")[0]
    if link.what:
        return f"job '{job}' needs '{source}' as {name}, but {link.what}"
    if not source:
        return ""
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


def _link_fix(link: Link, checked: CheckedJobs, users: Mapping[str, list[str]]) -> str:
    """Jobs that would do: they make the right thing and do not need the job themselves."""
    later = {link.job, *reachable(link.job, users)}
    accepted = _accepted(link, checked)
    sure: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for name in users:
        cls = checked.kinds.get(name)
        if name not in later and (cls is None or issubclass(output_of(cls), accepted)):
            call = _call(name, link, checked)
            (unsure if cls is None else sure).setdefault(*call)
    fitting = [name for name in sure.values() if name]
    if link.source not in users:
        known = [*fitting, *filter(None, unsure.values())]
        close = difflib.get_close_matches(link.source, known, n=1, cutoff=0.5)
        if close:
            return f"did you mean '{close[0]}'?"
    if fitting:
        return f"use {listed(fitting)}"
    kinds = [name for name in kind_names() if issubclass(output_of(load_kind(name)), accepted)]
    kind = f" (kind: {' or '.join(kinds)})" if kinds else ""
    return f"add a job that makes {_types(accepted)}{kind}"


def _call(name: str, link: Link, checked: CheckedJobs) -> tuple[str, str]:
    """What a job has in common with those like it, and how `link` would name it; "" = not."""
    origin, user = checked.made.origins.get(name), checked.made.origins.get(link.job)
    if origin is None:
        return name, name
    if user is not None and origin.group == user.group:
        beside = origin.iteration == user.iteration
        return (origin.member, origin.member) if beside else (name, "")
    many = link.place.partition(".")[0] in many_ref_fields(checked.kinds[link.job])
    return origin.short, origin.short if many else name


def _cycle_mistakes(edges: Mapping[str, list[tuple[str, str]]]) -> Iterator[Mistake]:
    rank = {name: number for number, name in enumerate(edges)}
    for found in cycles(edges):
        first = min(range(len(found) - 1), key=lambda number: rank[found[number]])
        circle = [*found[first:-1], *found[: first + 1]]
        fields = [
            next(field for field, source in edges[job] if source == following).partition(".")[0]
            for job, following in pairwise(circle)
        ]
        what = f"job '{circle[0]}' needs its own result in the end: {' -> '.join(circle)}"
        places = [f"jobs.{job}.{field}" for job, field in zip(circle[:-1], fields, strict=True)]
        yield Mistake(("jobs", circle[0], fields[0]), what, f"change {listed(places)}", "value")


@cache
def output_of(kind: type[JobSpec]) -> type:
    """The handle type that a kind makes."""
    return output_type(kind)


def _types(types: Iterable[type]) -> str:
    return " or ".join(_with_article(one.__name__) for one in types)


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
