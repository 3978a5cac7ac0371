"""Links the jobs of a pipeline: whose result each takes, what is known of it, and what is wrong.

`link` is a function over plain data: the fields of each job and what its kind makes. Of a job that
is wrong nothing is known but the type of its result, so that no mistake is said that only follows
from another, and all other jobs are checked. Nothing here recurses or searches a list inside a
loop, so that ten thousand jobs are linked in seconds.
"""

import difflib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.placeholders import placeholders
from slimctl.jobs.base.refs import refs_in
from slimctl.jobs.base.registry import kind_names, kind_of, load_kind
from slimctl.jobs.base.spec import (
    BY_CONTENT,
    JobSpec,
    many_ref_fields,
    output_type,
    ref_fields,
)
from slimctl.orchestrator.pipeline.diagnostics import Mistake, field_path, listed
from slimctl.orchestrator.pipeline.explain import (
    Subject,
    explain,
    field_mistake,
    shown,
    truth_mistakes,
)
from slimctl.orchestrator.pipeline.groups import UNFILLED, Expansion, expand
from slimctl.orchestrator.pipeline.references import Link, links_in, with_links

Edges = Mapping[str, Sequence[tuple[str, str]]]
"""Job -> (field, job whose result the field takes), in the order of the fields."""
UNKNOWN = ""
"""In place of a job of which nothing is known."""
MAX_SEARCHES = 50
"""References for which the jobs that would do are searched: it takes a walk over the graph."""


@dataclass
class Jobs:
    """The jobs of a pipeline, each by itself.

    Args:
        made: every job, and where it is from.
        kinds: spec class of each job whose kind is known.
        references: job -> its reference fields, as written, of those jobs.
        specs: jobs whose own fields are right, as written.
        mistakes: what is wrong with groups and with the jobs' own fields.
    """

    made: Expansion
    kinds: dict[str, type[JobSpec]] = field(default_factory=dict)
    references: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    specs: dict[str, JobSpec] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


@dataclass(frozen=True)
class Linked:
    """Jobs and what they take of each other.

    Args:
        specs: jobs whose own fields are right and whose number of inputs is known, every reference
            naming the job that it means.
        edges: what jobs take; UNKNOWN where that is wrong.
        order: all jobs, inputs first.
        facts: what is known of the results; of jobs that are wrong their type alone.
        mistakes: what is wrong with the references and between the jobs.
    """

    specs: Mapping[str, JobSpec]
    edges: Edges
    order: Sequence[str]
    facts: Mapping[str, Facts]
    mistakes: Sequence[Mistake]


def read_jobs(jobs: Mapping[str, Any]) -> Jobs:
    """Reads each job by itself."""
    made = expand(jobs)
    found = Jobs(made, mistakes=[*made.mistakes])
    for name, value in made.jobs.items():
        if isinstance(value, JobSpec):
            _add_spec(name, value, found)
        else:
            _read_job(name, value, found)
    return found


def _read_job(name: str, value: Any, jobs: Jobs) -> None:
    origin = jobs.made.origins.get(name)
    unfilled = origin is not None and origin.iteration == UNFILLED
    if unfilled and isinstance(value, Mapping) and any(placeholders(value.get("kind"))):
        return
    kind, mistakes = _kind_class(name, value)
    jobs.mistakes += mistakes
    if kind is None:
        return
    fields = {str(key): item for key, item in value.items() if key != "kind"}
    if "for_each" in fields and "for_each" not in kind.model_fields:
        del fields["for_each"]
        jobs.mistakes.append(_lone_for_each(name))
    jobs.kinds[name] = kind
    subject = Subject(kind, fields, ("jobs", name), f"job '{name}': ", kind_of(kind), unfilled)
    found: list[Mistake] = []
    spec = None
    try:
        spec = kind.model_validate(fields)
    except ValidationError as error:
        found = explain(error, subject)
    said = {mistake.path for mistake in found}
    found += [one for one in truth_mistakes(subject) if one.path not in said]
    jobs.mistakes += found
    if spec is not None and not (found or unfilled):
        _keep(name, spec, jobs)
    else:
        known = {key: fields[key] for key in ref_fields(kind) if key in fields}
        jobs.references[name] = {
            key: item for key, item in known.items() if not (unfilled and any(placeholders(item)))
        }


def _lone_for_each(name: str) -> Mistake:
    what = f"job '{name}' has a for_each, which belongs to a group of jobs"
    fix = f"write '{name}: {{for_each: ..., jobs: {{NAME: {{kind: ...}}}}}}'"
    return Mistake(("jobs", name, "for_each"), what, fix)


def _keep(name: str, spec: JobSpec, jobs: Jobs) -> None:
    jobs.specs[name] = spec
    jobs.references[name] = {key: getattr(spec, key) for key in ref_fields(type(spec))}


def _add_spec(name: str, spec: JobSpec, jobs: Jobs) -> None:
    try:
        kind_of(spec)
    except TypeError as error:
        fix = "put it into the entry-point group 'slimctl.kinds' of an installed package"
        jobs.mistakes.append(Mistake(("jobs", name), f"job '{name}': {error}", fix))
        return
    jobs.kinds[name] = type(spec)
    _keep(name, spec, jobs)


def _kind_class(name: str, value: Any) -> tuple[type[JobSpec] | None, list[Mistake]]:
    """The spec class that a job's `kind` names, and what is wrong with it."""
    path = ("jobs", name)
    some = "kind: load_dataset"
    if not isinstance(value, Mapping):
        what = f"job '{name}' must be a mapping with 'kind', not {shown(value)}"
        return None, [Mistake(path, what, f"write '{name}: {{{some}, ...}}'", "value")]
    if "kind" not in value:
        close = difflib.get_close_matches("kind", [str(key) for key in value], n=1, cutoff=0.7)
        fix = f"write 'kind' instead of '{close[0]}'" if close else _kinds_fix()
        return None, [Mistake((*path, *close), f"job '{name}' has no kind", fix)]
    kind = value["kind"]
    if not isinstance(kind, str):
        what = f"job '{name}': kind must be the name of a job kind, not {shown(kind)}"
        return None, [Mistake((*path, "kind"), what, _kinds_fix(), "value")]
    try:
        return load_kind(kind), []
    except UserError as error:
        what = f"job '{name}': {error.what}"
        return None, [Mistake((*path, "kind"), what, error.fix, "value")]


def _kinds_fix() -> str:
    return f"add 'kind: ...', one of {', '.join(kind_names())}"


def link(jobs: Jobs) -> Linked:
    """Resolves the references between jobs and checks each job against what it takes."""
    links = [
        one
        for name, given in jobs.references.items()
        for one in links_in(name, given, jobs.kinds[name], jobs.made)
    ]
    sure: dict[str, list[tuple[str, str]]] = {name: [] for name in jobs.made.jobs}
    for one in links:
        if one.source in sure and one.source != one.job and not one.what:
            sure[one.job].append((one.place, one.source))
            owner = jobs.made.owner(one.job)
            if owner not in (one.job, jobs.made.owner(one.source)):
                sure[owner].append((f"jobs.{one.place}", one.source))  # made before any trial
    wrong = dict(_link_mistakes(links, jobs, users_in(sure)))
    circles = [*cycles(sure)]
    mistakes = [*wrong.values(), *_cycle_mistakes(sure, circles)]
    meant: dict[str, list[Link]] = {name: [] for name in jobs.specs}
    edges: dict[str, list[tuple[str, str]]] = {name: [] for name in jobs.kinds}
    right = dict(jobs.specs)
    for one in links:
        lost = not one.source or one in wrong
        edges[one.job].append((one.place, UNKNOWN if lost else one.source))
        meant.setdefault(one.job, []).append(one)
        if lost and _field(one) in many_ref_fields(jobs.kinds[one.job]):
            right.pop(one.job, None)  # how many inputs it has is not known
    specs = {name: with_links(spec, meant[name]) for name, spec in right.items()}
    known = {name: Facts(made=output_type(kind).__name__) for name, kind in jobs.kinds.items()}
    order = dict.fromkeys([*topological_order(sure), *sure])  # those in circles come last
    facts, misfits = expectations(specs, edges, order, known=known)
    return Linked(specs, edges, tuple(order), facts, [*mistakes, *misfits])


def _field(link: Link) -> str:
    return link.place.partition(".")[0]


def expectations(
    specs: Mapping[str, JobSpec],
    edges: Edges,
    order: Iterable[str],
    read: Mapping[str, Facts] | None = None,
    known: Mapping[str, Facts] | None = None,
) -> tuple[dict[str, Facts], list[Mistake]]:
    """What is known of each result before anything runs, and what cannot fit together.

    Args:
        specs: the jobs whose fields are right.
        edges: what they take; where that is no job, nothing is known of it.
        order: all jobs, inputs first.
        read: what reading outside input says of the results of some jobs.
        known: what is known of the results of all other jobs.
    """
    facts = dict(known or {})
    mistakes: list[Mistake] = []
    for name in order:
        spec = specs.get(name)
        if spec is None:
            continue
        inputs = {place: facts.get(job, Facts()) for place, job in edges[name]}
        chosen = [one for each in inputs.values() for one in each.chosen_by]
        try:
            expected = spec.expect(inputs)
        except FieldError as error:
            expected = error.facts
            mistakes += [field_mistake(name, one) for one in error.each]
        made = output_type(type(spec)).__name__
        chosen_by = tuple(dict.fromkeys([*chosen, *spec.chooses_by()]))
        found = (read or {}).get(name, expected)
        facts[name] = replace(found, made=made, chosen_by=chosen_by, averaged=spec.averaged())
    return facts, mistakes


# What jobs take from outside the store


def outside_mistakes(jobs: Jobs, linked: Linked, said: Iterable[Mistake]) -> list[Mistake]:
    """What reading outside input says of jobs where something else is wrong."""
    wrong = {str(mistake.path[1]) for mistake in said if len(mistake.path) > 1}
    origins = jobs.made.origins
    right = {
        name: spec
        for name, spec in linked.specs.items()
        if wrong.isdisjoint([name, *([origins[name].group] if name in origins else [])])
    }
    read, unread = read_outside(right)
    known = {name: Facts(made=facts.made) for name, facts in linked.facts.items()}
    _, misfits = expectations(linked.specs, linked.edges, linked.order, read, known)
    return [*unread, *misfits]


def read_outside(specs: Mapping[str, JobSpec]) -> tuple[dict[str, Facts], list[Mistake]]:
    """What outside input tells of the results of jobs, and what is wrong with it."""
    read: dict[str, Facts] = {}
    mistakes: list[Mistake] = []
    for name, spec in specs.items():
        try:
            found = spec.preflight()
        except FieldError as error:
            mistakes += [field_mistake(name, one) for one in error.each]
        except (UserError, OSError) as error:
            mistakes.append(outside_mistake(name, spec, error))
        else:
            read |= {name: found} if found else {}
    return read, mistakes


def outside_mistake(job: str, spec: JobSpec, error: UserError | OSError) -> Mistake:
    """Input from outside that cannot be used, at the field that names it."""
    marked = [k for k, info in type(spec).model_fields.items() if BY_CONTENT in info.metadata]
    path = ("jobs", job, *marked[:1])
    if isinstance(error, UserError):
        where = f"{error.where}: " if error.where else ""
        return Mistake(path, f"job '{job}': {where}{error.what}", error.fix, "value")
    what = f"job '{job}': {error.filename or 'its input'} cannot be read: {error.strerror or error}"
    return Mistake(path, what, "check that the file is there and may be read", "value")


# What is wrong with references, and which jobs would do instead


def _link_mistakes(
    links: Iterable[Link], jobs: Jobs, users: Mapping[str, list[str]]
) -> Iterator[tuple[Link, Mistake]]:
    searches = 0
    for link in links:
        what, fix = _wrong_link(link, jobs), link.fix
        if what and not fix:
            searches += 1
            fix = f"name a job that makes {_wanted(link, jobs)}"
            fix = _link_fix(link, jobs, users) if searches <= MAX_SEARCHES else fix
        if what:
            yield link, Mistake(field_path(link.job, link.written), what, fix, "value")


def _accepted(link: Link, jobs: Jobs) -> tuple[type, ...]:
    """Handle types that the field of a reference takes."""
    return ref_fields(jobs.kinds[link.job])[_field(link)]


def _wrong_link(link: Link, jobs: Jobs) -> str:
    """What is wrong with a reference; "" if nothing is."""
    job, source = link.job, link.source
    name = _field(link)
    if link.what:
        return f"job '{job}' needs '{source}' as {name}, but {link.what}"
    if not source:
        return ""
    if source == job:
        return f"job '{job}' needs its own result as {name}"
    if source not in jobs.made.jobs:
        return f"job '{job}' needs '{source}' as {name}, but there is no such job"
    kind = jobs.kinds.get(source)
    if kind is not None and not issubclass(output_type(kind), _accepted(link, jobs)):
        made = _with_article(output_type(kind).__name__)
        return f"job '{job}' needs {_wanted(link, jobs)} as {name}, but '{source}' makes {made}"
    return ""


def _link_fix(link: Link, jobs: Jobs, users: Mapping[str, list[str]]) -> str:
    """Jobs that would do: they make the right thing and do not need the job themselves."""
    later = {link.job, *reachable(link.job, users)}
    accepted = _accepted(link, jobs)
    sure: dict[str, str] = {}
    unsure: dict[str, str] = {}
    for name in users:
        cls = jobs.kinds.get(name)
        mine = jobs.made.owner(name) in (name, jobs.made.owner(link.job))
        if mine and name not in later and (cls is None or issubclass(output_type(cls), accepted)):
            call = _call(name, link, jobs)
            (unsure if cls is None else sure).setdefault(*call)
    fitting = [name for name in sure.values() if name]
    if link.source not in users:
        known = [*fitting, *filter(None, unsure.values())]
        close = difflib.get_close_matches(link.source, known, n=1, cutoff=0.5)
        if close:
            return f"did you mean '{close[0]}'?"
    if fitting:
        return f"use {listed(fitting)}"
    kinds = [name for name in kind_names() if issubclass(output_type(load_kind(name)), accepted)]
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
    many = _field(link) in many_ref_fields(jobs.kinds[link.job])
    if many:
        return origin.short, origin.short
    return origin.short, "" if origin.iteration == UNFILLED else name


def _wanted(link: Link, jobs: Jobs) -> str:
    """`a Flow or a Generator`."""
    return " or ".join(_with_article(one.__name__) for one in _accepted(link, jobs))


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _cycle_mistakes(edges: Edges, circles: Iterable[list[str]]) -> Iterator[Mistake]:
    rank = {name: number for number, name in enumerate(edges)}
    for found in circles:
        first = min(range(len(found) - 1), key=lambda number: rank[found[number]])
        circle = [*found[first:-1], *found[: first + 1]]
        fields = [
            next(field for field, source in edges[job] if source == following).partition(".")[0]
            for job, following in pairwise(circle)
        ]
        what = f"job '{circle[0]}' needs its own result in the end: {' -> '.join(circle)}"
        places = [f"jobs.{job}.{field}" for job, field in zip(circle[:-1], fields, strict=True)]
        yield Mistake(("jobs", circle[0], fields[0]), what, f"change {listed(places)}", "value")


# The graph of the jobs


def links_of(spec: JobSpec) -> list[tuple[str, str]]:
    """(field, job) for each reference of a spec; `students.0` in a field that names many."""
    fields = ref_fields(type(spec))
    return [
        (place, ref.job) for name in fields for place, ref in refs_in(name, getattr(spec, name))
    ]


def sources_of(edges: Edges, job: str) -> tuple[str, ...]:
    """Jobs whose results a job takes, each once, in the order of its fields."""
    return tuple(dict.fromkeys(source for _, source in edges[job]))


def users_in(edges: Edges) -> dict[str, list[str]]:
    """The same edges the other way round: job -> jobs that take its result."""
    users: dict[str, list[str]] = {name: [] for name in edges}
    for name in edges:
        for source in sources_of(edges, name):
            users[source].append(name)
    return users


def reachable(start: str, users: Mapping[str, Sequence[str]]) -> set[str]:
    """All jobs that depend on `start`, without itself unless it depends on itself."""
    found: set[str] = set()
    stack = [start]
    while stack:
        fresh = [name for name in users[stack.pop()] if name not in found]
        found.update(fresh)
        stack += fresh
    return found


def topological_order(edges: Edges) -> Iterator[str]:
    """Every job after its inputs, otherwise in the order given.

    Jobs on a cycle, and those that need one, are left out.
    """
    rank = {name: number for number, name in enumerate(edges)}
    names = list(edges)
    users = users_in(edges)
    waits = {name: len(sources_of(edges, name)) for name in edges}
    ready = [rank[name] for name in names if waits[name] == 0]  # ascending, so a heap already
    while ready:
        name = names[heapq.heappop(ready)]
        yield name
        for user in users[name]:
            waits[user] -= 1
            if waits[user] == 0:
                heapq.heappush(ready, rank[user])


def cycles(edges: Edges) -> Iterator[list[str]]:
    """Cycles as lists of jobs, each needing the next, the last being the first again.

    Breaking all of them leaves a graph without cycles.
    """
    done: set[str] = set()
    for start in edges:
        path = {} if start in done else {start: iter(sources_of(edges, start))}
        while path:
            last = next(reversed(path))
            source = next(path[last], None)
            if source is None:
                done.add(last)
                del path[last]
            elif source in path:
                names = list(path)
                yield [*names[names.index(source) :], source]
            elif source not in done:
                path[source] = iter(sources_of(edges, source))
