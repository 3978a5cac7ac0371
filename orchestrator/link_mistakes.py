"""What is wrong with the references between jobs, and which jobs would do instead."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import JobSpec, many_ref_fields, output_type
from slimctl.orchestrator.expansion import Expansion
from slimctl.orchestrator.graph import reachable, ref_fields
from slimctl.orchestrator.groups import UNFILLED
from slimctl.orchestrator.messages import field_path
from slimctl.orchestrator.problems import Mistake, listed
from slimctl.orchestrator.references import Link

MAX_SEARCHES = 50
"""References for which the jobs that would do are searched: it takes a walk over the graph."""


@dataclass(frozen=True)
class Jobs:
    """What references are judged by.

    Args:
        made: every job by itself.
        kinds: spec class of each job whose kind is known.
        users: job -> jobs that take its result, for all jobs.
    """

    made: Expansion
    kinds: Mapping[str, type[JobSpec]]
    users: Mapping[str, list[str]]


def link_mistakes(links: Iterable[Link], jobs: Jobs) -> Iterator[tuple[Link, Mistake]]:
    """The references that are wrong, and why."""
    searches = 0
    for link in links:
        what, fix = _wrong_link(link, jobs), link.fix
        if what and not fix:
            searches += 1
            few = searches <= MAX_SEARCHES
            fix = _link_fix(link, jobs) if few else f"name a job that makes {_wanted(link, jobs)}"
        if what:
            yield link, Mistake(field_path(link.job, link.written), what, fix, "value")


def _accepted(link: Link, jobs: Jobs) -> tuple[type, ...]:
    """Handle types that the field of a reference takes."""
    return ref_fields(jobs.kinds[link.job])[link.place.partition(".")[0]]


def _wrong_link(link: Link, jobs: Jobs) -> str:
    """What is wrong with a reference; "" if nothing is."""
    job, source = link.job, link.source
    name = link.place.partition(".")[0]
    if link.what:
        return f"job '{job}' needs '{source}' as {name}, but {link.what}"
    if not source:
        return ""
    if source == job:
        return f"job '{job}' needs its own result as {name}"
    if source not in jobs.users:
        return f"job '{job}' needs '{source}' as {name}, but there is no such job"
    kind = jobs.kinds.get(source)
    if kind is not None and not issubclass(output_of(kind), _accepted(link, jobs)):
        made = _with_article(output_of(kind).__name__)
        return f"job '{job}' needs {_wanted(link, jobs)} as {name}, but '{source}' makes {made}"
    return ""


def _link_fix(link: Link, jobs: Jobs) -> str:
    """Jobs that would do: they make the right thing and do not need the job themselves."""
    later = {link.job, *reachable(link.job, jobs.users)}
    accepted = _accepted(link, jobs)
    sure: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for name in jobs.users:
        cls = jobs.kinds.get(name)
        if name not in later and (cls is None or issubclass(output_of(cls), accepted)):
            call = _call(name, link, jobs)
            (unsure if cls is None else sure).setdefault(*call)
    fitting = [name for name in sure.values() if name]
    if link.source not in jobs.users:
        known = [*fitting, *filter(None, unsure.values())]
        close = difflib.get_close_matches(link.source, known, n=1, cutoff=0.5)
        if close:
            return f"did you mean '{close[0]}'?"
    if fitting:
        return f"use {listed(fitting)}"
    kinds = [name for name in kind_names() if issubclass(output_of(load_kind(name)), accepted)]
    kind = f" (kind: {' or '.join(kinds)})" if kinds else ""
    return f"add a job that makes {_wanted(link, jobs)}{kind}"


def _call(name: str, link: Link, jobs: Jobs) -> tuple[str, str]:
    """What a job has in common with those like it, and how `link` would name it; "" = not."""
    origin, user = jobs.made.origins.get(name), jobs.made.origins.get(link.job)
    if origin is None:
        return name, name
    if user is not None and origin.group == user.group:
        beside = origin.iteration == user.iteration
        return (origin.member, origin.member) if beside else (name, "")
    many = link.place.partition(".")[0] in many_ref_fields(jobs.kinds[link.job])
    if many:
        return origin.short, origin.short
    return origin.short, "" if origin.iteration == UNFILLED else name


@cache
def output_of(kind: type[JobSpec]) -> type:
    """The handle type that a kind makes."""
    return output_type(kind)


def _wanted(link: Link, jobs: Jobs) -> str:
    """`a Flow or a Generator`."""
    return " or ".join(_with_article(one.__name__) for one in _accepted(link, jobs))


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
