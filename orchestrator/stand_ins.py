"""Jobs with wrong fields as far as they are right, so that a mistake hides no other.

A stand-in holds `WRONG` in each field that is wrong. Whatever a check asks of that value ends the
check, so that nothing is told that only follows from a mistake told already.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Never

from pydantic import BaseModel, TypeAdapter, ValidationError

from slimctl.jobs.base.facts import Facts, UntoldError
from slimctl.jobs.base.spec import JobSpec
from slimctl.orchestrator.problems import Path

SURE = 0.75
"""Likeness from which a key that does not exist is surely a misspelt one."""


class Wrong:
    """A value that is wrong: it cannot be asked for anything."""

    def __getattr__(self, name: str) -> Never:
        raise UntoldError

    def __repr__(self) -> str:
        return "WRONG"


def _ask(*_: object) -> Never:
    raise UntoldError


_QUESTIONS = (
    "abs add bool call contains divmod eq float floordiv format fspath ge getitem gt hash index "
    "int iter le len lt mod mul ne neg pow radd rdivmod rfloordiv rmod rmul round rpow rsub "
    "rtruediv str sub truediv"
)
for _question in _QUESTIONS.split():
    setattr(Wrong, f"__{_question}__", _ask)
WRONG: Any = Wrong()


def meant_keys(given: Iterable[str], model: type[BaseModel]) -> dict[str, str | None]:
    """Keys that a spec does not have -> the free field that each surely means; None = no field."""
    keys = [*given]
    free = [name for name in model.model_fields if name not in keys]
    meant: dict[str, str | None] = {}
    for key in keys:
        if key not in model.model_fields:
            close = difflib.get_close_matches(key, free, n=1, cutoff=SURE)
            meant[key] = close[0] if close else None
            free = [name for name in free if name not in close]
    return meant


def wrong_fields(
    kind: type[JobSpec],
    fields: Mapping[str, Any],
    error: ValidationError | None,
    mistaken: Iterable[Path],
) -> set[str] | None:
    """Fields of a job that tell nothing, a misspelt key standing for the field that it means.

    Args:
        kind: spec class of the job.
        fields: as the user wrote them.
        error: what pydantic says of them; None = nothing.
        mistaken: paths of what is wrong besides.

    Returns:
        The fields; None if a key means no field.
    """
    places = [one["loc"] for one in error.errors()] if error else []
    meant = meant_keys(fields, kind)
    if None in meant.values():
        return None
    first = {str(place[0]) for place in [*places, *mistaken] if place}
    return {meant.get(name) or name for name in first}


def prepared(kind: type[JobSpec], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields as a kind completes them before it looks at each; None if it cannot."""
    data: Any = dict(fields)
    for name, rule in kind.__pydantic_decorators__.model_validators.items():
        if rule.info.mode == "before":
            try:
                data = getattr(kind, name)(data)
            except ValueError:
                return None
    return dict(data)


def stand_in(kind: type[JobSpec], fields: Mapping[str, Any], wrong: Collection[str]) -> JobSpec:
    """A job that holds `WRONG` in the fields that are wrong.

    Args:
        kind: spec class of the job.
        fields: as the kind completes them.
        wrong: names of fields.
    """
    known = {name: given for name, given in fields.items() if name in kind.model_fields}
    right = {name: given for name, given in known.items() if name not in wrong}
    values = {name: _adapter(kind, name).validate_python(given) for name, given in right.items()}
    return kind.model_construct(**{**values, **dict.fromkeys(wrong, WRONG)})


def holds_wrong(told: JobSpec | Facts) -> bool:
    """Whether a job, or what one tells of its result, holds a value that is wrong."""
    return any(value is WRONG for value in vars(told).values())


def contradictions(job: JobSpec) -> Iterator[ValueError]:
    """What the rules of a job's kind say about its fields together, as far as they are right."""
    for name, rule in type(job).__pydantic_decorators__.model_validators.items():
        error = _broken(job, name) if rule.info.mode == "after" else None
        if error is not None:
            yield error


def _broken(job: JobSpec, rule: str) -> ValueError | None:
    """What a rule says; None where it holds, or cannot be judged without what is wrong."""
    try:
        getattr(job, rule)()
    except ValueError as error:
        return None if isinstance(error, ValidationError) else error
    except Exception:  # noqa: BLE001  (a wrong value leads anywhere, and it is told already)
        return None
    return None


@cache
def _adapter(kind: type[JobSpec], name: str) -> TypeAdapter[Any]:
    info = kind.model_fields[name]
    annotation: Any = Annotated[info.annotation, info]
    return TypeAdapter(annotation)
