"""A pipeline file: plain data, and the line of every key and value in it."""

import codecs
import difflib
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from slimctl.orchestrator.problems import (
    Path,
    PipelineProblems,
    Place,
    Places,
    Problem,
    Side,
    listed,
)
from slimctl.orchestrator.yaml_tree import Node, parse_yaml

ASIDE = "x-"
"""Keys at the top of a file that begin so are a place for anchors, and say nothing themselves."""


@dataclass(frozen=True, eq=False)
class Document(Places):
    """A file that could be read, though perhaps not without complaint.

    Args:
        root: the whole, a mapping.
        problems: repeated keys; of each the last value counts.
        draft: whether files that it names may be missing.
        reads: whether files that it names are read where something else is wrong.
    """

    root: Node
    problems: tuple[Problem, ...] = ()
    draft: bool = False
    reads: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """The file as plain data."""
        data: dict[str, Any] = self.root.plain()
        return data

    def node(self, path: Path) -> Node | None:
        """The node at a path, if there is one."""
        found: Node | None = self.root
        for part in path:
            found = found.child(part) if found else None
        return found

    def place(self, path: Path, side: Side = "key") -> Place:
        """Where a path stands, or the key of the nearest mapping around it if it is missing.

        A value of several lines is found by its key on either side.
        """
        node = self.root
        for part in path:
            child = node.child(part)
            if child is None:
                return node.key
            node = child
        is_scalar = not isinstance(node.value, (dict, list))
        return node.place if side == "value" and is_scalar else node.key

    def position(self, path: Path, side: Side = "key") -> tuple[int, int]:
        """Line and column of `place`, from 1."""
        place = self.place(path, side)
        return place.line, place.column

    def with_node(self, path: Path, node: Node) -> "Document":
        """A copy with another node at a path whose parent is a mapping or list."""
        return replace(self, root=_grafted(self.root, path, node))


def _grafted(tree: Node, path: Path, node: Node) -> Node:
    if not path:
        return node
    first, rest = path[0], path[1:]
    value = tree.value.copy()
    value[first] = _grafted(value[first], rest, node) if rest else node
    return replace(tree, value=value)


def read_document(path: str | FilePath) -> Document:
    """Reads a pipeline file.

    Raises:
        PipelineProblems: there is no such file, or it is not a YAML mapping in UTF-8.
    """
    try:
        content = FilePath(path).read_bytes()
    except (OSError, ValueError) as error:
        raise PipelineProblems(_unreadable(str(path), error)) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{content[error.start]:02x} is not UTF-8"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            what = "the file is in UTF-16, not in UTF-8"
        problem = Problem(str(path), line, 0, what, "save the file in UTF-8")
        raise PipelineProblems(problem) from None
    return parse_document(text, str(path))


def parse_document(text: str, file: str) -> Document:
    """Reads a pipeline from text; `file` is what messages call it.

    Raises:
        PipelineProblems: it is not a YAML mapping.
    """
    root, repeated = parse_yaml(text, lambda line, column: Place(file, line, column))
    start = "begin with 'name: ...' and 'jobs: ...'"
    if root.value is None and not root.place.column:
        raise PipelineProblems(Problem(file, 0, 0, "the file is empty", start))
    if not isinstance(root.value, dict):
        is_list = isinstance(root.value, list)
        what = f"a pipeline is a mapping, but this is {'a list' if is_list else 'a single value'}"
        raise PipelineProblems(Problem(*root.place, what, start))
    kept = {key: node for key, node in root.value.items() if not key.startswith(ASIDE)}
    return Document(replace(root, value=kept), repeated)


def _unreadable(path: str, error: OSError | ValueError) -> Problem:
    """Why a file cannot be read, with the names of files that could be meant."""
    file = FilePath(path)
    if isinstance(error, FileNotFoundError):
        folder = file.parent
        if not folder.is_dir():
            return Problem(path, 0, 0, f"there is no folder '{folder}'", "check the path")
        return Problem(path, 0, 0, "there is no such file", _files_meant(folder, file.name))
    if isinstance(error, IsADirectoryError):
        return Problem(path, 0, 0, "this is a folder, not a file", _files_meant(file, ""))
    reason = getattr(error, "strerror", None) or str(error)
    return Problem(path, 0, 0, f"this cannot be read: {reason}", "check its path and its rights")


def _files_meant(folder: FilePath, name: str) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError:
        names = []
    close = difflib.get_close_matches(name, names, n=1)
    meant = [str(folder / one) for one in close or names]
    if close:
        return f"did you mean '{meant[0]}'?"
    return f"name {listed(meant)}" if meant else "name a pipeline file (.yaml)"
