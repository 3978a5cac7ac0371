"""`--set jobs.student.steps=500`: values put into a pipeline file from the command line.

Values follow the rules of the file. A path leads to any field that the file has or that the job's
kind knows; inside a field that the file leaves out, the rest of its default stays. A new job needs
a whole mapping (`--set 'jobs.extra={kind: ...}'`), since its parts could not be kept apart from
typing errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.orchestrator.pipeline.diagnostics import (
    KeyPath,
    PipelineProblems,
    Place,
    Problem,
    dotted,
)
from slimctl.orchestrator.pipeline.explain import Subject, fields_at, shown
from slimctl.orchestrator.pipeline.groups import is_group
from slimctl.orchestrator.pipeline.source import Document, Node, parse_yaml

MAX_SHOWN = 80
"""Characters of an override that a message repeats."""
JOB_PARTS = 2
GROUP_JOB_PARTS = 4


def apply_overrides(
    document: Document, overrides: Iterable[str]
) -> tuple[Document, tuple[Problem, ...]]:
    """Sets values in a document, one after the other.

    Args:
        document: the file.
        overrides: `PATH=VALUE` texts; keys of the path are joined by dots.

    Returns:
        The changed document, and what is wrong with overrides that could not be applied. A value
        that the pipeline then refuses is found at its `--set`, not in the file.
    """
    problems: list[Problem] = []
    for text in overrides:
        place = override_place(text)
        try:
            document = _applied(document, text, place)
        except PipelineProblems as error:
            problems += error.problems
        except UserError as refused:
            problems.append(Problem(*place, refused.what, refused.fix))
    return document, tuple(problems)


def override_place(text: str) -> Place:
    """What messages call an override."""
    line = " ".join(text.split())
    return Place(f"--set {line if len(line) <= MAX_SHOWN else line[: MAX_SHOWN - 3] + '...'}")


def _applied(document: Document, text: str, place: Place) -> Document:
    dotted_path, equals, value_text = text.partition("=")
    parts = dotted_path.strip().split(".")
    if not equals or not all(parts):
        what = "this is not PATH=VALUE"
        raise UserError("", what, "write --set jobs.NAME.FIELD=VALUE")
    value, repeated = parse_yaml(value_text, lambda _line, _column: place)
    if repeated:
        raise PipelineProblems(*repeated)
    path = _path(document.root, parts)
    _check_job(document, path, value)
    for end in range(1, len(path)):
        document = _with_parent(document, path[:end], path[end], place)
    return document.with_node(_indexed(document, path), value)


def _path(root: Node, parts: Sequence[str]) -> KeyPath:
    """Keys of a dotted path; a key that holds dots itself is found by what the file has."""
    path: list[str] = []
    node: Node | None = root
    while parts:
        names = node.value if node and isinstance(node.value, Mapping) else ()
        sizes = range(len(parts), 0, -1)
        size = next((size for size in sizes if ".".join(parts[:size]) in names), 1)
        path.append(".".join(parts[:size]))
        node = node.child(path[-1]) if node else None
        parts = parts[size:]
    return tuple(path)


def _check_job(document: Document, path: KeyPath, value: Node) -> None:
    """Refuses a job that the file or a group of it lacks, unless the value is all of it."""
    end = _job_end(document, path)
    jobs = document.node(path[: end - 1])
    known = jobs.value if jobs and isinstance(jobs.value, Mapping) else {}
    if len(path) < end or path[0] != "jobs" or path[end - 1] in known:
        return
    is_whole = len(path) == end and isinstance(value.value, Mapping)
    if not is_whole:
        name, where = str(path[end - 1]), dotted(path[:end])
        new = f"a new job needs a whole mapping: --set '{where}={{kind: ...}}'"
        fix = f"{nearest(name, known)}; {new}" if known else new
        group = f" in the group '{path[1]}'" if end > JOB_PARTS else ""
        raise UserError("", f"there is no job '{name}'{group}", fix)


def _job_end(document: Document, path: KeyPath) -> int:
    """Number of parts of the path to a job: `jobs.student`, or `jobs.students.jobs.student`."""
    node = document.node(path[:JOB_PARTS])
    here = node.plain() if node is not None and len(path) > JOB_PARTS else None
    inside = path[JOB_PARTS:][:1] == ("jobs",) and is_group(here)
    return GROUP_JOB_PARTS if inside and len(path) >= GROUP_JOB_PARTS else JOB_PARTS


def _with_parent(document: Document, path: KeyPath, key: str | int, place: Place) -> Document:
    """Makes sure that a mapping or list stands at a path, for `key` to be set in it."""
    node = document.node(_indexed(document, path))
    if node is not None and isinstance(node.value, (dict, list)):
        return document
    if node is not None and node.value is not None:
        what = f"{dotted(path)} is {shown(node.value)}, which has no '{key}'"
        raise UserError("", what, f"set {dotted(path)} itself")
    default = {} if key == "kind" else _default(document, path)
    return document.with_node(_indexed(document, path), _tree(default, place))


def _default(document: Document, path: KeyPath) -> Any:
    """What the spec has at a path that the file leaves out, as plain data; {} if nothing."""
    end = _job_end(document, path)
    job = document.node(path[:end])
    kind = job.child("kind") if job is not None and path[0] == "jobs" else None
    if job is None or kind is None or len(path) <= end:
        return {}
    try:
        model = load_kind(str(kind.value))
    except UserError:
        return {}
    subject = Subject(model, job.plain())
    info = fields_at(subject, _indexed(document, path)[end:-1]).get(str(path[-1]))
    default = info.get_default(call_default_factory=True) if info else None
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json")
    return list(default) if isinstance(default, (list, tuple)) else {}


def _tree(data: Any, place: Place) -> Node:
    if isinstance(data, Mapping):
        return Node({key: _tree(item, place) for key, item in data.items()}, place, place)
    if isinstance(data, (list, tuple)):
        return Node([_tree(item, place) for item in data], place, place)
    return Node(data, place, place)


def _indexed(document: Document, path: KeyPath) -> KeyPath:
    """The path with numbers where the document has lists.

    Raises:
        UserError: a list has no such item.
    """
    node: Node | None = document.root
    found: list[str | int] = []
    for part in path:
        if node is not None and isinstance(node.value, list):
            count = len(node.value)
            if not str(part).isdecimal() or int(part) >= count:
                what = f"{dotted(tuple(found))} has {count} items and no item '{part}'"
                raise UserError("", what, f"use an item from 0 to {count - 1}, or set all of it")
            part = int(part)
        found.append(part)
        node = node.child(part) if node is not None else None
    return tuple(found)
