"""`Ref[PairSet]`: a field that names another job and thereby makes an edge of the graph.

`tuple[Ref[Generator], ...]` names any number of jobs, such as those of a group.
"""

import types
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

HandleT_co = TypeVar("HandleT_co", covariant=True)


class Ref(Generic[HandleT_co]):
    """The job whose result a field takes.

    `Ref[PairSet]` accepts a job's name, the job itself or another `Ref`; the type parameter is
    checked against the return type of that job's `run` before anything starts. A plain class, since
    pydantic reads a dataclass as a mapping.

    Args:
        job: name of a job of the same pipeline, or the job itself: the pipeline that both are in
            says its name.
    """

    __slots__ = ("_job",)

    def __init__(self, job: str | BaseModel) -> None:
        self._job = job

    @property
    def job(self) -> str:
        """Name of the job.

        Raises:
            TypeError: it is a job that is not part of a pipeline yet.
        """
        if isinstance(self._job, str):
            return self._job
        what = f"this {type(self._job).__name__} has a name once it is in a Pipeline"
        raise TypeError(f"{what}: Pipeline(name=..., jobs={{'NAME': job, ...}})")

    @property
    def given(self) -> str | BaseModel:
        """The name, or the job itself."""
        return self._job

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return False
        named = isinstance(self._job, str) and isinstance(other._job, str)
        return self._job == other._job if named else self._job is other._job

    def __hash__(self) -> int:
        return hash((Ref, self._job if isinstance(self._job, str) else id(self._job)))

    def __repr__(self) -> str:
        return f"Ref({self._job!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_name = core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(min_length=1)
        )
        by_name = core_schema.union_schema([core_schema.is_instance_schema(Ref), from_name])
        return core_schema.json_or_python_schema(
            json_schema=from_name,
            python_schema=core_schema.no_info_before_validator_function(_from_job, by_name),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda ref: ref.job),
        )


def _from_job(value: Any) -> Any:
    is_job = isinstance(value, BaseModel) and hasattr(type(value), "run")
    return Ref(value) if is_job else value


def ref_types(annotation: Any) -> tuple[type, ...]:
    """Handle types that a field of this annotation accepts from another job; () if it takes none.

    `Ref[A | B]` and `SolverSpec | Ref[StepGrid] | None` are understood.
    """
    if get_origin(annotation) is Ref:
        (argument,) = get_args(annotation)
        is_union = isinstance(argument, types.UnionType)
        return tuple(get_args(argument)) if is_union else (argument,)
    found: list[type] = []
    for part in get_args(annotation):
        found += ref_types(part)
    return tuple(found)


def takes_many(annotation: Any) -> bool:
    """Whether a field of this annotation names any number of jobs: `tuple[Ref[Flow], ...]`."""
    if get_origin(annotation) in (tuple, list, Sequence):
        return bool(ref_types(annotation))
    return any(takes_many(part) for part in get_args(annotation))


def iter_refs(spec: BaseModel) -> list[tuple[str, Ref[Any]]]:
    """The references held by a spec's own fields, as (place, reference), in field order.

    The place is the field's name; in a field that names many jobs `students.0`, `students.1`, ...
    """
    return [
        found for name in type(spec).model_fields for found in refs_in(name, getattr(spec, name))
    ]


def refs_in(place: str, value: Any) -> list[tuple[str, Ref[Any]]]:
    """The references that a field's value is or holds, as (place, reference)."""
    if isinstance(value, Ref):
        return [(place, value)]
    if isinstance(value, (tuple, list)):
        items = ((f"{place}.{number}", item) for number, item in enumerate(value))
        return [(name, item) for name, item in items if isinstance(item, Ref)]
    return []
