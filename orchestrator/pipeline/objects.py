"""Jobs that are given as objects in Python get the names that a pipeline file would hold.

    data = LoadDataset(source="digits")
    Pipeline(name="digits", jobs={"data": data, "teacher": TrainFlow(data=data, ...)})

An object counts as itself: another one with equal fields is another job.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import JobSpec
from slimctl.orchestrator.pipeline.diagnostics import Mistake


class Objects(dict[int, tuple[str, JobSpec]]):
    """Identity -> name and job; the job is held so that no other one gets its identity."""

    def __eq__(self, other: object) -> bool:
        """How a pipeline was written does not make it another one."""
        return isinstance(other, Objects)


def objects_in(jobs: Mapping[str, Any]) -> Objects:
    """The jobs that a mapping holds as objects."""
    held = {id(job): (str(name), job) for name, job in jobs.items() if isinstance(job, JobSpec)}
    return Objects(held)


def as_template(job: Any, siblings: Objects) -> Any:
    """A job of a group as plain data, which can hold placeholders; siblings by their names."""
    if not isinstance(job, JobSpec):
        return named(job, siblings)
    held = {name: getattr(job, name) for name in type(job).model_fields}
    by_object = {name: value for name, value in held.items() if _holds_objects(value)}
    written = job.model_dump(mode="json", exclude=set(by_object))
    return {"kind": kind_of(job), **written, **named(by_object, siblings)}


def named(value: Any, names: Objects) -> Any:
    """A value of a field, or data of a job, with names in place of the objects that have one."""
    given = value.given if isinstance(value, Ref) else value
    if isinstance(given, JobSpec):
        return names[id(given)][0] if id(given) in names else given
    if isinstance(value, Mapping):
        return {key: named(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(named(item, names) for item in value)
    return value


def with_names(job: Any, names: Objects) -> Any:
    """A job, as a spec or as data, whose references are by name."""
    if not isinstance(job, BaseModel):
        return named(job, names)
    held = {name: getattr(job, name) for name in type(job).model_fields}
    changed = {name: _refs(value, names) for name, value in held.items() if _holds_objects(value)}
    return job.model_copy(update=changed) if changed else job


def unnamed(job: str, value: Any) -> list[Mistake]:
    """What is wrong with objects that no name was found for.

    Args:
        job: name of the job that refers to them.
        value: the job after `with_names`.
    """
    fields = dict(value) if isinstance(value, Mapping | BaseModel) else {}
    return [
        Mistake(
            ("jobs", job, str(name)),
            f"job '{job}' takes as {name} an object ({kind_of(one)}) that is not among the jobs of "
            "this pipeline",
            "add it under a name of its own: jobs={..., 'NAME': ...}",
        )
        for name, held in fields.items()
        for one in _objects(held)
    ]


def _refs(value: Any, names: Objects) -> Any:
    if isinstance(value, Ref):
        found = named(value, names)
        return Ref(found)
    if isinstance(value, tuple):
        return tuple(_refs(item, names) for item in value)
    return named(value, names)


def _holds_objects(value: Any) -> bool:
    return bool(_objects(value))


def _objects(value: Any) -> list[JobSpec]:
    """The jobs in a value that are given as objects."""
    given = value.given if isinstance(value, Ref) else value
    if isinstance(given, JobSpec):
        return [given]
    if isinstance(value, Mapping):
        return [one for item in value.values() for one in _objects(item)]
    if isinstance(value, (list, tuple)):
        return [one for item in value for one in _objects(item)]
    return []
