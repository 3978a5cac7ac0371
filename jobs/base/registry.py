"""Finds job kinds: one module of `jobs/kinds` each, named after the kind, and entry points.

Kinds are looked up by file name, so adding one touches no other file.
"""

import difflib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from slimctl.jobs.base.artifacts import HANDLES, Handle
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.spec import JobSpec, output_type

ENTRY_POINTS = "slimctl.kinds"


MOST_NAMED = 40
"""Names in a hint; there are fewer job kinds and presets than that."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known name closest to `name`, else all of them, or the first of many."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(choices) - MOST_NAMED} more" if len(choices) > MOST_NAMED else ""
    return f"use one of: {', '.join(choices[:MOST_NAMED])}{more}"


@cache
def _builtin_names() -> tuple[str, ...]:
    folder = import_module("slimctl.jobs.kinds").__path__
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folder)))


@cache
def _third_party() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def is_built_in(kind: str) -> bool:
    """Whether a kind is one of this package's own."""
    return kind in _builtin_names()


def kind_names() -> tuple[str, ...]:
    """All kinds that a pipeline can name, sorted."""
    return tuple(sorted({*_builtin_names(), *_third_party()}))


@cache
def load_kind(name: str) -> type[JobSpec]:
    """The spec class of a kind.

    Raises:
        UserError: there is no such kind.
    """
    if name in _builtin_names():
        module = import_module(f"slimctl.jobs.kinds.{name}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, JobSpec)
            and value.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise TypeError(f"jobs/kinds/{name}.py must define exactly one JobSpec")
        return found[0]
    if name in _third_party():
        loaded: type[JobSpec] = _third_party()[name].load()
        return loaded
    raise UserError("", f"there is no job kind '{name}'", nearest(name, kind_names()))


def kind_of(spec: JobSpec | type[JobSpec]) -> str:
    """The name of a spec's kind: its module's name, or that of its entry point."""
    cls = spec if isinstance(spec, type) else type(spec)
    if cls.__module__.startswith("slimctl.jobs.kinds."):
        return cls.__module__.rpartition(".")[2]
    for name in _third_party():
        if load_kind(name) is cls:
            return name
    raise TypeError(f"{cls.__qualname__} is not registered under '{ENTRY_POINTS}'")


def handle_type(name: str, kind: str) -> type[Handle]:
    """The handle type of a result.

    Args:
        name: of the type.
        kind: that made it; one of another package may have a type of its own.

    Raises:
        UserError: neither is known here, such as where that package is not installed.
    """
    if kind in _third_party() and kind not in _builtin_names():
        made = output_type(load_kind(kind))
        if made.__name__ == name:
            return made
    if name in HANDLES:
        return HANDLES[name]
    raise UserError(
        "",
        f"is a {name} of the job kind '{kind}', which is not installed here",
        f"install the package that has '{kind}' in the entry-point group '{ENTRY_POINTS}'",
    )


def handle_types() -> tuple[type[Handle], ...]:
    """All types of results, those of installed packages too."""
    others = (output_type(load_kind(kind)) for kind in _third_party())
    return tuple(dict.fromkeys((*HANDLES.values(), *others)))


def parse_job(kind: str, fields: Mapping[str, Any]) -> JobSpec:
    """Builds a spec from plain data without its `kind` key.

    Raises:
        UserError: unknown kind.
        pydantic.ValidationError: wrong fields.
    """
    return load_kind(kind).model_validate(fields)
