"""What jobs take from outside the store: reading it before anything starts, and its paths."""

import copy
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec
from slimctl.orchestrator.fields import types_in
from slimctl.orchestrator.messages import field_mistake
from slimctl.orchestrator.problems import Mistake

if TYPE_CHECKING:
    from slimctl.jobs.kinds.sweep import Sweep

SpecT = TypeVar("SpecT", bound=BaseModel)


def read_outside(specs: Mapping[str, JobSpec]) -> tuple[dict[str, Facts], list[Mistake]]:
    """What outside input tells of the results of jobs, and what is wrong with it.

    Args:
        specs: the jobs, with paths that hold here.
    """
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


def with_absolute_paths(spec: SpecT) -> SpecT:
    """The spec with the paths of files that are there from the root, `~` being the home folder."""
    changes: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        value = getattr(spec, name)
        if BY_CONTENT in info.metadata and isinstance(value, str):
            if value in types_in(info.annotation):
                continue  # one of the words that the field's Literal reserves
            changes[name] = _absolute(value)
        elif isinstance(value, BaseModel):
            changes[name] = with_absolute_paths(value)
    if isinstance(spec, JobSpec) and kind_of(spec) == "sweep":
        changes["jobs"] = _absolute_templates(cast("Sweep", spec))
    changes = {name: value for name, value in changes.items() if value is not getattr(spec, name)}
    return spec.model_copy(update=changes) if changes else spec


def _absolute_templates(sweep: "Sweep") -> dict[str, Any]:
    """The jobs of a sweep with absolute paths where the templates name files as such."""
    jobs = copy.deepcopy(sweep.jobs)
    for name, spec in sweep.corners():
        _replace(jobs[name], spec, with_absolute_paths(spec))
    return sweep.jobs if jobs == sweep.jobs else jobs


def _replace(template: dict[str, Any], spec: BaseModel, absolute: BaseModel) -> None:
    """Puts what differs between two specs into a template that holds the value of the first."""
    for name in type(spec).model_fields:
        old, new, held = getattr(spec, name), getattr(absolute, name), template.get(name)
        if isinstance(new, BaseModel) and isinstance(held, dict) and new is not old:
            _replace(held, old, new)
        elif new is not old and held == old:
            template[name] = new


def _absolute(value: str) -> str:
    """The path from the root, if something is there or could match its wildcards."""
    try:
        path = Path(value).expanduser()
        known = tuple(takewhile(lambda part: not set("*?[") & set(part), path.parts))
        there = path.exists() or (path.parts != known and Path(*known).is_dir())
        return str(path.absolute()) if there else value
    except (OSError, ValueError, RuntimeError):  # no path at all
        return value
