"""What a name in a field means: a job, a sibling in the group, or some jobs of a group.

`students.quality` is that job of every iteration, `students[width=8].quality` of those with that
value, `students[width=8,seed=0].quality` of one. A field that takes one job takes the last form,
one that takes many takes all.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from slimctl.jobs.base.refs import Ref, refs_in
from slimctl.jobs.base.registry import nearest
from slimctl.jobs.base.spec import JobSpec, many_ref_fields
from slimctl.jobs.search.spec import SearchSpec
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, Place, listed
from slimctl.orchestrator.pipeline.groups import UNFILLED, Expansion, Origin, label_of
from slimctl.orchestrator.pipeline.source import parse_yaml

SELECTION = re.compile(r"([^\[\].]+)(?:\[([^\]]*)\])?\.([^\[\].]+)")
FULL_NAME = re.compile(r"([^.]+)\.([^.]+=.*)\.([^.]+)")


class Meant(NamedTuple):
    """Jobs that a reference names.

    Args:
        jobs: at least one, unless the name is wrong or what it names could not be made.
        what: what is wrong; "" if nothing is known to be.
        fix: what to do.
    """

    jobs: tuple[str, ...]
    what: str = ""
    fix: str = ""


def meant_by(name: str, origin: Origin | None, made: Expansion) -> Meant:
    """The jobs that a name means in a job.

    Args:
        name: as the user wrote it.
        origin: place of the job in a group; None if it stands alone.
        made: all jobs. A name that no job or group has is returned as it is.
    """
    sibling = _sibling(name, origin, made)
    if sibling and name in made.jobs:
        what = f"there are two, in the group '{origin.group if origin else ''}' and outside"
        return Meant((), what, "rename one of them")
    if sibling:
        return Meant((sibling,) if sibling in made.jobs else ())
    if origin and origin.group in made.origins:  # a search that stands in a group
        return meant_by(name, made.origins[origin.group], made)
    if name in made.jobs and made.owner(name) == name:
        return Meant((name,))
    if name in made.groups:
        one = next(iter(made.groups[name].jobs))
        return Meant((), "it is a group", f"name a job of it, such as '{name}.{one}'")
    match, full = SELECTION.fullmatch(name), FULL_NAME.fullmatch(name)
    groups = {made.owner(name), match and match[1], full and full[1]}
    for search in made.searches.intersection(groups):
        what = f"'{search}' is a search, whose trials are not known before it runs"
        return Meant((), what, f"name another job than those of '{search}'")
    if match and match[1] in made.iterations:
        return _selected(match[1], match[2], match[3], made)
    if full and full[1] in made.iterations:
        return _missing(Origin(full[1], full[2], full[3]), made)
    return Meant((name,))


def _missing(named: Origin, made: Expansion) -> Meant:
    """Why there is no job of this name in its group."""
    if not {named.group, named.short}.isdisjoint(made.broken):
        return Meant(())
    members = made.groups[named.group].jobs
    if named.member not in members:
        what = f"the group '{named.group}' has no job '{named.member}'"
        return Meant((), what, nearest(named.member, members))
    names = [one.name for one in made.iterations[named.group]]
    close = difflib.get_close_matches(named.iteration, names, n=1) or names[:1]
    jobs = (Origin(named.group, one, named.member).name for one in close)
    return Meant((), "there is no such job", f"did you mean {listed(jobs)}?")


def _sibling(name: str, origin: Origin | None, made: Expansion) -> str:
    """The job of the same iteration that has this name; "" if none has."""
    if origin is None or name not in made.groups[origin.group].jobs:
        return ""
    short = f"{origin.group}.{name}"
    mine = Origin(origin.group, origin.iteration, name).name
    there = short not in made.broken and origin.iteration != UNFILLED
    return mine if there or mine in made.jobs else short


def _selected(group: str, wanted: str | None, member: str, made: Expansion) -> Meant:
    if group in made.broken or f"{group}.{member}" in made.broken:
        return Meant(())
    members = made.groups[group].jobs
    if member not in members:
        close = nearest(member, members)
        return Meant((), f"the group '{group}' has no job '{member}'", close)
    iterations = made.iterations[group]
    pairs = dict(item.partition("=")[::2] for item in (wanted or "").split(",") if item.strip())
    for variable, text in ((key.strip(), value.strip()) for key, value in pairs.items()):
        known = iterations[0].labels
        if variable not in known:
            return Meant((), f"'{group}' has no variable '{variable}'", nearest(variable, known))
        fitting = [one for one in iterations if one.labels[variable] in _labels(text)]
        if not fitting:
            labels = list(dict.fromkeys(one.labels[variable] for one in iterations))
            fix = f"use {variable}={' or '.join(labels[:6])}"
            return Meant((), f"'{group}' has no {variable}={text}", fix)
        iterations = fitting
    return Meant(tuple(Origin(group, one.name, member).name for one in iterations))


def _labels(text: str) -> set[str]:
    """Labels that a value in brackets can mean: `1e-3` is called 0.001."""
    try:
        value, _ = parse_yaml(text, lambda _line, _column: Place(""))
    except PipelineProblems:
        return {text}
    return {text, label_of(value.plain())}


class Link(NamedTuple):
    """A field that names a job, right or wrong."""

    job: str
    place: str
    """The field, or `students.0` in one that names many."""
    source: str
    """The job that is meant, or the name as given where none is; "" if what it names could not
    be made, which is reported elsewhere."""
    written: str
    """The place as the user wrote it."""
    what: str = ""
    """What is wrong with the name; "" if nothing is known to be."""
    fix: str = ""


def links_in(
    job: str, fields: Mapping[str, Any], kind: type[JobSpec], made: Expansion
) -> list[Link]:
    """The references of a job."""
    many, origin = many_ref_fields(kind), made.origins.get(job)
    links: list[Link] = []
    for field, value in fields.items():
        number = 0
        for written, ref in refs_in(field, _as_refs(value, many=field in many)):
            meant = meant_by(ref.job, origin, made)
            what, fix = meant.what, meant.fix
            if len(meant.jobs) > 1 and field not in many:
                what = f"these are {len(meant.jobs)} jobs"
                fix = _one_of(meant.jobs[0], origin, made)
            if what:
                links.append(Link(job, written, ref.job, written, what, fix))
                continue
            for source in meant.jobs or ("",):
                place = f"{field}.{number}" if field in many else field
                links.append(Link(job, place, source, written))
                number += 1
    return links


def _one_of(job: str, origin: Origin | None, made: Expansion) -> str:
    named = made.origins.get(job)
    if named and origin and named.group == origin.group:
        return f"write '{named.member}' for the one of the same iteration"
    return f"name one of them, such as '{job}'"


def named_outside(name: str, spec: SearchSpec, made: Expansion) -> dict[str, tuple[str, ...]]:
    """What the trials of a search name besides each other -> the jobs that this means."""
    origin = made.origins.get(name)
    return {written: meant_by(written, origin, made).jobs for written in spec.outside()}


def _as_refs(value: Any, *, many: bool) -> Any:
    """What a field of plain data refers to, as far as it can be known."""
    if many and isinstance(value, (str, Ref)):
        value = [value]
    if many and isinstance(value, (list, tuple)):
        return [Ref(item) if isinstance(item, str) and item else item for item in value]
    return Ref(value) if isinstance(value, str) and value else value


def with_links(spec: JobSpec, links: Iterable[Link]) -> JobSpec:
    """A spec whose references name the jobs that they mean."""
    many = many_ref_fields(type(spec))
    changes: dict[str, Any] = {}
    for link in links:
        field = link.place.partition(".")[0]
        if not link.source:
            continue
        if field in many:
            changes.setdefault(field, []).append(Ref(link.source))
        else:
            changes[field] = Ref(link.source)
    fresh = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    same = all(getattr(spec, name) == value for name, value in fresh.items())
    return spec if same else spec.model_copy(update=fresh)
