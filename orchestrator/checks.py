"""Checks the jobs of a pipeline together and finds every mistake in one go.

No mistake hides another, and none is told that only follows from another: of a field, a reference
or a job that is wrong nothing is known, and all the rest is checked.
"""

import difflib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.placeholders import placeholders
from slimctl.jobs.base.registry import kind_names, kind_of, load_kind
from slimctl.jobs.base.spec import JobSpec, many_ref_fields
from slimctl.orchestrator.expansion import Expansion, expand
from slimctl.orchestrator.fields import Subject
from slimctl.orchestrator.graph import (
    Edges,
    cycles,
    expectations,
    ref_fields,
    topological_order,
    users_in,
)
from slimctl.orchestrator.link_mistakes import Jobs, link_mistakes, output_of
from slimctl.orchestrator.messages import contradiction, explain, shown, truth_mistakes
from slimctl.orchestrator.outside import read_outside, with_absolute_paths
from slimctl.orchestrator.problems import Mistake, listed
from slimctl.orchestrator.references import Link, links_in, with_links
from slimctl.orchestrator.stand_ins import (
    WRONG,
    contradictions,
    prepared,
    stand_in,
    wrong_fields,
)
from slimctl.orchestrator.telling import told_once

SURE_KIND = 0.85
"""Likeness from which a kind that does not exist is surely a misspelt one: no two are so alike."""
UNKNOWN = ""
"""In place of a job of which nothing is known."""


@dataclass
class Asked:
    """The jobs as far as what is known of their results can be checked.

    Args:
        specs: jobs whose own fields are right.
        stand_ins: other jobs, as far as they are right.
        order: all jobs, inputs first.
        edges: what they need; UNKNOWN where that is wrong.
        known: what is known of the results of all jobs by their kinds.
    """

    specs: dict[str, JobSpec] = field(default_factory=dict)
    stand_ins: dict[str, JobSpec] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    edges: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    known: dict[str, Facts] = field(default_factory=dict)

    def mistakes(self, read: Mapping[str, Facts] | None = None) -> list[Mistake]:
        """What cannot fit together, given what reading outside input told of some results."""
        return expectations(self.specs, self.edges, self.order, read, self.known, self.stand_ins)[1]


@dataclass
class CheckedJobs:
    """What the check of the jobs found.

    Args:
        made: every job by itself.
        written: specs of jobs whose own fields are right, as written.
        specs: the same with every reference naming the job that it means.
        stand_ins: jobs whose own fields are wrong, as far as they are right.
        kinds: spec class of each job whose kind is known or surely meant.
        links: every reference.
        asked: what is checked of the results.
        mistakes: everything that is wrong.
    """

    made: Expansion
    written: dict[str, JobSpec] = field(default_factory=dict)
    specs: dict[str, JobSpec] = field(default_factory=dict)
    stand_ins: dict[str, JobSpec] = field(default_factory=dict)
    kinds: dict[str, type[JobSpec]] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    asked: Asked = field(default_factory=Asked)
    mistakes: list[Mistake] = field(default_factory=list)


def check_jobs(jobs: Mapping[str, Any]) -> CheckedJobs:
    """Checks each job, then the references between them, then what is known of their results.

    Args:
        jobs: name -> spec or group, or plain data of one.
    """
    checked = CheckedJobs(expand(jobs))
    everything = {**checked.made.jobs, **checked.made.unfilled}
    for name, value in everything.items():
        _read_job(name, value, checked)
    edges: dict[str, list[tuple[str, str]]] = {name: [] for name in everything}
    for link in checked.links:
        if link.source in edges and link.source != link.job and not link.what:
            edges[link.job].append((link.place, link.source))
    found = [*link_mistakes(checked.links, Jobs(checked.made, checked.kinds, users_in(edges)))]
    checked.mistakes += [mistake for _, mistake in found]
    circles = [*cycles(edges)]
    checked.mistakes += _cycle_mistakes(edges, circles)
    order = topological_order(_without(edges, circles))
    checked.asked = _asked(checked, {link for link, _ in found}, order)
    checked.mistakes += checked.asked.mistakes()
    checked.mistakes = [*checked.made.mistakes, *told_once(checked.mistakes, checked.made)]
    return checked


def _asked(checked: CheckedJobs, wrong: Container[Link], order: Iterable[str]) -> Asked:
    """The jobs as far as they can be judged without what references that are wrong would tell."""
    asked = Asked({**checked.specs}, {**checked.stand_ins}, tuple(order))
    asked.edges = {name: [] for name in checked.kinds}
    for link in checked.links:
        lost = not link.source or link in wrong
        asked.edges[link.job].append((link.place, UNKNOWN if lost else link.source))
        if lost and link.place.partition(".")[0] in many_ref_fields(checked.kinds[link.job]):
            asked.specs.pop(link.job, None)  # which they are is not known
            asked.stand_ins.pop(link.job, None)
    for name, spec in checked.stand_ins.items():
        lost_fields = {field for field in ref_fields(type(spec)) if getattr(spec, field) is WRONG}
        asked.edges[name] += [(field, UNKNOWN) for field in lost_fields]
    kinds = checked.kinds.items()
    asked.known = {name: Facts(made=output_of(kind).__name__) for name, kind in kinds}
    return asked


def outside_mistakes(checked: CheckedJobs) -> list[Mistake]:
    """What reading outside input tells of jobs among which something else is wrong."""
    wrong = {str(mistake.path[1]) for mistake in checked.mistakes if len(mistake.path) > 1}
    origins = checked.made.origins
    right = {
        name: with_absolute_paths(spec)
        for name, spec in checked.specs.items()
        if wrong.isdisjoint([name, *([origins[name].group] if name in origins else [])])
    }
    read, unread = read_outside(right)
    return told_once([*unread, *checked.asked.mistakes(read)], checked.made)


def _read_job(name: str, value: Any, checked: CheckedJobs) -> None:
    """Adds a job, its links and the mistakes in its own fields to what is checked."""
    if isinstance(value, JobSpec):
        _add_spec(name, value, checked)
        return
    unfilled = name in checked.made.unfilled
    if unfilled and isinstance(value, Mapping) and any(placeholders(value.get("kind"))):
        return
    cls, mistakes = _kind_class(name, value)
    checked.mistakes += mistakes
    if cls is None:
        return
    fields = {str(key): item for key, item in value.items() if key != "kind"}
    if "for_each" in fields and "for_each" not in cls.model_fields:
        del fields["for_each"]
        checked.mistakes.append(_lone_for_each(name))
    checked.kinds[name] = cls
    _read_fields(
        name,
        Subject(cls, fields, ("jobs", name), f"job '{name}': ", kind_of(cls), unfilled),
        checked,
    )


def _read_fields(name: str, subject: Subject, checked: CheckedJobs) -> None:
    kind, fields = checked.kinds[name], subject.data
    found, failed = [], None
    try:
        spec = kind.model_validate(fields)
    except ValidationError as error:
        failed, found = error, explain(error, subject)
    told = {mistake.path for mistake in found}
    truths = [one for one in truth_mistakes(subject) if one.path not in told]
    checked.mistakes += [*found, *truths]
    if not (failed or truths or subject.unfilled):
        _keep(name, spec, checked)
        return
    complete = prepared(kind, fields)
    given = {key: (complete or fields).get(key) for key in ref_fields(kind)}
    untold = [place for place, _ in placeholders(fields)] if subject.unfilled else []
    for place in untold:
        given.pop(str(place[0]), None)
    links = links_in(name, given, kind, checked.made)
    checked.links += links
    wrong = wrong_fields(kind, fields, failed, [*untold, *(one.path[2:] for one in truths)])
    if complete is not None and wrong is not None:
        job = stand_in(kind, complete, wrong)
        checked.mistakes += [contradiction(error, subject) for error in contradictions(job)]
        checked.stand_ins[name] = with_links(job, links)


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


def _kind_class(name: str, value: Any) -> tuple[type[JobSpec] | None, list[Mistake]]:
    """The spec class that a job's `kind` names or surely means, and what is wrong with it."""
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
        mistake = Mistake((*path, "kind"), f"job '{name}': {error.what}", error.fix, "value")
    meant = difflib.get_close_matches(kind, kind_names(), n=1, cutoff=SURE_KIND)
    return load_kind(meant[0]) if meant else None, [mistake]


def _kinds_fix() -> str:
    return f"add 'kind: ...', one of {', '.join(kind_names())}"


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


def _without(edges: Edges, circles: Iterable[list[str]]) -> Edges:
    """The same jobs without the circles that they run in."""
    cut = {(circle[-2], circle[-1]) for circle in circles}
    return {
        job: [(place, source) for place, source in links if (job, source) not in cut]
        for job, links in edges.items()
    }
