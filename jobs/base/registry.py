"""Finds job kinds: one module of `jobs/kinds` each, named after the kind, and entry points.

Kinds are looked up by file name, so adding one touches no other file. What they make is a type of
`jobs/base/artifacts.py`, the one that a kind's `run` declares, or one that its package names in the
entry-point group `slimctl.artifacts`.
"""

import difflib
import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from slimctl.jobs.base.artifacts import HANDLES, Handle
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.models.spec import installed, origin

ENTRY_POINTS = "slimctl.kinds"
ARTIFACTS = "slimctl.artifacts"
ClassT = TypeVar("ClassT")
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
    return installed(ENTRY_POINTS)


def load_entry(entry: EntryPoint, base: type[ClassT]) -> type[ClassT]:
    """The class that an installed package adds.

    Raises:
        UserError: it cannot be imported, or is of another sort.
    """
    try:
        found = entry.load()
    except Exception as error:
        what = f"cannot be loaded: {type(error).__name__}: {error}"
        fix = "install what that package needs, or uninstall it"
        raise UserError(origin(entry), what, fix) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        fix = f"let the entry point name a subclass of {base.__name__}"
        raise UserError(origin(entry), f"is no {base.__name__}", fix)
    return found


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
        return load_entry(_third_party()[name], JobSpec)  # type: ignore[type-abstract]
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


def handle_type(name: str, kind: str, package: str = "") -> type[Handle]:
    """The type of a result, by its name and the kind that made it.

    Raises:
        UserError: neither is known here; names the package, if that is known.
    """
    if kind in _third_party() and not is_built_in(kind):
        made = output_type(load_kind(kind))
        if made.__name__ == name:
            return made
    if name in HANDLES:
        return HANDLES[name]
    if name in installed(ARTIFACTS):
        return load_entry(installed(ARTIFACTS)[name], Handle)
    known, _, version = package.partition("==")
    what = f"is a {name} of the job kind '{kind}', which is not installed here"
    if known:
        fix = f"install the package it is from: pip install {known} (version {version} made it)"
    else:
        fix = f"install the package that has '{kind}' in the entry-point group '{ENTRY_POINTS}'"
    raise UserError("", what, fix)


def package_of(made: type[Handle], kind: str) -> str:
    """The package that a type of results is from, as `name==version`; "" for our own.

    Raises:
        TypeError: no package names it, so that it could never be read again.
    """
    if made in HANDLES.values():
        return ""
    entry = installed(ARTIFACTS).get(made.__name__) or _third_party().get(kind)
    if entry is None or handle_type(made.__name__, kind) is not made:
        raise TypeError(
            f"'{kind}' returned a {made.__name__}, which is neither the type that its run declares "
            f"nor in the entry-point group '{ARTIFACTS}'"
        )
    return f"{entry.dist.name}=={entry.dist.version}" if entry.dist else ""


def parse_job(kind: str, fields: Mapping[str, Any]) -> JobSpec:
    """Builds a spec from plain data without its `kind` key.

    Raises:
        UserError: unknown kind.
        pydantic.ValidationError: wrong fields.
    """
    return load_kind(kind).model_validate(fields)
