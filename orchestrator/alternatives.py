"""pydantic's errors at their places in the user's data; of a union's alternatives the one meant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from slimctl.orchestrator.problems import Path


@dataclass
class LocatedError:
    """An error of pydantic's with its path in the user's data."""

    path: Path
    details: ErrorDetails
    union: Path | None
    """Path of the field whose alternatives were tried; None if there were none."""
    tagged: bool
    """Whether the alternative is the one that the `kind` of the user's value names."""


def located_errors(error: ValidationError, data: Any) -> list[LocatedError]:
    """The errors that say what is wrong with the user's data.

    Args:
        error: of pydantic.
        data: as the user wrote it.
    """
    return _best_alternatives([_located(one, data) for one in error.errors() if not _follows(one)])


def _follows(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because items of it are wrong."""
    given, context = details["input"], details.get("ctx", {})
    is_list = isinstance(given, (list, tuple))
    return details["type"] == "too_short" and is_list and len(given) >= context["min_length"]


def _located(details: ErrorDetails, data: Any) -> LocatedError:
    """Follows pydantic's location through the data, leaving out what names no key of it."""
    *inner, last = details["loc"] or (None,)
    extra = details["type"] == "extra_forbidden"  # then the last part is a key, never a tag
    path: list[str | int] = []
    union: Path | None = None
    here, tagged, by_kind = data, False, False
    for at, part in enumerate(inner if details["type"] == "missing" else details["loc"]):
        key = extra and at == len(inner)
        if not (tagged or key) and isinstance(here, Mapping) and here.get("kind") == part:
            tagged, by_kind = True, by_kind or union is not None
        elif _holds(here, part):
            path.append(part)
            here, tagged = here[part], False
        elif union is None:
            union = tuple(path)
    if details["type"] == "missing" and last is not None:
        path.append(last)
    return LocatedError(tuple(path), details, union, by_kind)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(here, (list, tuple)) and part < len(here)
    return isinstance(here, Mapping) and part in here


def _best_alternatives(errors: list[LocatedError]) -> list[LocatedError]:
    """Of a union's alternatives the one of the value's `kind`, else those that fit furthest down.

    A mapping with a `kind` that does not exist was meant for the alternatives that have kinds.
    """
    misnamed = {one.union for one in errors if one.details["type"] == "union_tag_invalid"}
    errors = [
        one
        for one in errors
        if one.union not in misnamed - {None} or one.details["type"] == "union_tag_invalid"
    ]
    named = {one.union for one in errors if one.tagged}
    errors = [one for one in errors if one.tagged or one.union not in named]
    depth: dict[Path, int] = {}
    for one in errors:
        if one.union is not None and not one.tagged:
            depth[one.union] = max(depth.get(one.union, 0), len(one.path))
    return [
        one
        for one in errors
        if one.union is None or one.tagged or len(one.path) == depth[one.union]
    ]
