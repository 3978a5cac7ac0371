"""`Ref[PairSet]`: a field that names another job and thereby makes an edge of the graph.

`tuple[Ref[Generator], ...]` names any number of jobs, such as those of a group.
"""

import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from pydantic import BaseModel

HandleT_co = TypeVar("HandleT_co", covariant=True)


class Ref(Generic[HandleT_co]):
    """The name of the job whose result a field takes.

    `Ref[PairSet]` accepts a job name (str) or another `Ref`; the type parameter is checked against
    the return type of that job's `run` before anything starts. A plain class, since pydantic reads
    a dataclass as a mapping.

    Args:
        job: name of a job of the same pipeline.
    """

    __slots__ = ("job",)

    def __init__(self, job: str) -> None:
        self.job = job

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other.job == self.job

    def __hash__(self) -> int:
        return hash((Ref, self.job))

    def __repr__(self) -> str:
        return f"Ref({self.job!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from_name = core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(min_length=1)
        )
        return core_schema.json_or_python_schema(
            json_schema=from_name,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(Ref), from_name]
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda ref: ref.job),
        )


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


def iter_refs(spec: "BaseModel") -> list[tuple[str, Ref[Any]]]:
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
