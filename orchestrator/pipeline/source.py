"""A pipeline file: YAML whose every value knows its line and column.

The text is composed once by ruamel.yaml and read by the core schema of YAML 1.2 and nothing more:
`1e-4` is a number; `no`, `on`, dates and `1_000` are text; keys are text as written. Anchors,
aliases and merge keys (`<<`) work; a value reached through an alias stands where its anchor is.
"""

import codecs
import difflib
import io
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter
from ruamel.yaml.resolver import VersionedResolver

from slimctl.orchestrator.pipeline.diagnostics import (
    KeyPath,
    PipelineProblems,
    Place,
    Places,
    Problem,
    Side,
    listed,
    raise_problems,
)

ASIDE = "x-"
"""Keys at the top of a file that begin so are a place for anchors, and say nothing themselves."""
MAX_DEPTH = 32
"""Levels of nesting; a pipeline needs six."""
MAX_VALUES = 1_000_000
"""Values after aliases are expanded: a few lines of nested aliases can stand for billions."""

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        list("-+0123456789."),
    ),
    "merge": (re.compile(r"^<<$"), ["<"]),
}
"""Tag -> (pattern, first characters), in the order tried. Source: YAML 1.2.2, section 10.3.2."""


class _CoreResolver(VersionedResolver):
    """Reads every file by the core schema, whatever version it declares."""

    @property
    def versioned_resolver(self) -> dict[str, list[tuple[str, re.Pattern[str]]]]:
        return _RESOLVERS


_RESOLVERS = {
    first: [
        (_TAG + name, pattern)
        for name, (pattern, firsts) in _CORE_SCHEMA.items()
        if first in firsts
    ]
    for first in {first for _, firsts in _CORE_SCHEMA.values() for first in firsts}
}


@dataclass(frozen=True)
class Node:
    """A value with its place.

    Args:
        value: scalar, mapping of nodes or list of nodes.
        place: where the value begins.
        key: where its key stands; `place` if it has none.
        size: number of values in it, itself included.
    """

    value: Any
    place: Place
    key: Place
    size: int = 1

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, part: str | int) -> "Node | None":
        """The node under a key or index, if there is one."""
        found: Node | None = None
        if isinstance(self.value, dict):
            found = self.value.get(str(part))
        elif isinstance(self.value, list) and isinstance(part, int) and part < len(self.value):
            found = self.value[part]
        return found


def parse_yaml(text: str, locate: Callable[[int, int], Place]) -> tuple[Node, tuple[Problem, ...]]:
    """Reads YAML text of any kind.

    Args:
        text: one YAML document; nothing is null.
        locate: makes a place of a line and a column, from 1.

    Returns:
        The tree, and problems that do not hinder reading on (repeated keys).

    Raises:
        PipelineProblems: it is not YAML, or more than plain data.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _CoreResolver
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False
    try:
        root = yaml.compose(text)
    except (YAMLError, ValueError, RecursionError, IndexError) as error:
        raise PipelineProblems(syntax_problem(error, text, locate)) from None
    if root is None:
        place = locate(0, 0)
        return Node(None, place, place), ()
    tree = _Tree(locate)
    node = tree.convert(root)
    raise_problems(tree.fatal and [*tree.fatal, *tree.repeated])
    if node.size > MAX_VALUES:
        what = f"its aliases stand for {node.size:,} values"
        raise PipelineProblems(Problem(*node.place, what, "use fewer nested aliases"))
    return node, tuple(tree.repeated)


class _Tree:
    """Turns composed YAML nodes into ours, and collects what is wrong with them."""

    def __init__(self, locate: Callable[[int, int], Place]) -> None:
        self._locate = locate
        self._known: dict[int, Node | None] = {}
        self.fatal: list[Problem] = []
        self.repeated: list[Problem] = []

    def convert(self, source: Any) -> Node:
        """Our node for one of ruamel's; an alias gives the node of its anchor."""
        place = self._place(source)
        if id(source) in self._known:
            known = self._known[id(source)]
            return known or self._failed(place, "an alias to what it is part of", "spell it out")
        self._known[id(source)] = None
        if isinstance(source, MappingNode):
            node = self._mapping(source, place)
        elif isinstance(source, SequenceNode):
            children = [self.convert(child) for child in source.value]
            node = Node(children, place, place, 1 + sum(child.size for child in children))
        else:
            node = self._scalar(source, place)
        if not _is_plain_data(source):
            node = self._failed(place, f"the tag '{_tag(source)}' is not plain data", "remove it")
        self._known[id(source)] = node
        return node

    def _place(self, source: Any) -> Place:
        return self._locate(source.start_mark.line + 1, source.start_mark.column + 1)

    def _failed(self, place: Place, what: str, fix: str) -> Node:
        self.fatal.append(Problem(*place, what, fix))
        return Node(None, place, place)

    def _scalar(self, source: ScalarNode, place: Place) -> Node:
        self._check_visible(source)
        try:
            return Node(_scalar_value(_tag(source), source.value), place, place)
        except ValueError:
            kind = _tag(source).removeprefix("!!")
            what = f"'{source.value[:40]}' cannot be read as {kind}"
            return self._failed(place, what, "write a number, or put text in quotes")

    def _mapping(self, source: MappingNode, place: Place) -> Node:
        children: dict[str, Node] = {}
        merged: list[Node] = []
        for key, value in source.value:
            where = self._place(key)
            if not isinstance(key, ScalarNode):
                fix = "write 'key: value'; put a value that begins with { or [ in quotes"
                self._failed(where, "a key must be text, not a list or a mapping", fix)
            elif _tag(key) == "!!merge":
                merged += self._merged(value)
            else:
                self._check_visible(key)
                self._check_fresh(key.value, where, children)
                child = self.convert(value)
                # ruamel puts an empty value where the next key is
                begin = where if child.value is None and not value.value else child.place
                children[key.value] = replace(child, key=where, place=begin)
        for node in merged:
            children = {**children, **{k: v for k, v in node.value.items() if k not in children}}
        size = 1 + sum(child.size for child in children.values())
        return Node(children, place, place, size)

    def _check_visible(self, source: ScalarNode) -> None:
        """Unquoted text holds no character that is taken for another by those who look at it."""
        odd = odd_character(source.value) if source.style is None else None
        if odd:
            mark = source.start_mark
            place = self._locate(mark.line + 1, mark.column + odd.column)
            self.fatal.append(Problem(*place, odd.what, odd.fix))

    def _check_fresh(self, key: str, where: Place, children: Mapping[str, Node]) -> None:
        if key in children:
            line = children[key].key.line
            what = f"'{key}' is given twice" + (f", first in line {line}" if line else "")
            self.repeated.append(Problem(*where, what, "remove or rename one of them"))

    def _merged(self, source: Any) -> list[Node]:
        node = self.convert(source)
        nodes = node.value if isinstance(node.value, list) else [node]
        if all(isinstance(each.value, dict) for each in nodes):
            return list(nodes)
        self._failed(node.place, "'<<' must name a mapping", "give it an alias of a mapping")
        return []


def _tag(source: Any) -> str:
    return str(source.tag).replace(_TAG, "!!")


def _is_plain_data(source: Any) -> bool:
    allowed = {MappingNode: ("!!map",), SequenceNode: ("!!seq",)}
    scalars = ("!!str", "!!null", "!!bool", "!!int", "!!float", "!!merge")
    return _tag(source) in allowed.get(type(source), scalars)


def _scalar_value(tag: str, text: str) -> Any:
    """The value of a scalar.

    Raises:
        ValueError: the text is no value of that tag.
    """
    if tag == "!!null":
        return None
    if tag == "!!bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    if tag == "!!int":
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
    if tag == "!!float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    return text


class _Saying(NamedTuple):
    """How to say a complaint of ruamel's."""

    sign: str
    """Part of its message."""
    what: str
    """What is wrong; "" = its own message."""
    fix: str
    opening: bool = False
    """Whether to point at where the construct begins, not at where it broke."""


class Odd(NamedTuple):
    """A character that looks like another, which YAML means something by; column from 1."""

    column: int
    what: str
    fix: str


QUOTES = "\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
"""Typographic quotes, which word processors put in place of straight ones."""
ESCAPED_BYTES = range(0xDC80, 0xDD00)
"""How Python writes bytes of the command line that are not UTF-8."""


def odd_character(text: str) -> Odd | None:
    """The first character of unquoted text that cannot be seen, or is a typographic quote.

    Those are the blanks that are no plain space (Unicode's Zs) and formatting without width (Cf).
    """
    for place, sign in enumerate(text):
        if sign in QUOTES and (place == 0 or text[place - 1] in " [{,:"):
            what = f"{sign} is no quote of YAML's"
            return Odd(place + 1, what, "write straight quotes: \" or '")
        if sign != " " and unicodedata.category(sign) in ("Zs", "Cf"):
            name = unicodedata.name(sign, "no name").lower()
            what = f"the invisible character U+{ord(sign):04X} ({name}) stands here"
            return Odd(place + 1, what, "write a plain space, or put text that needs it in quotes")
    return None


_QUOTE = "put the text in quotes"
_SAYINGS = (
    _Saying(
        "character '\\t' that cannot start", "a tab indents this line", "indent with spaces only"
    ),
    _Saying("that cannot start any token", "", _QUOTE),
    _Saying(
        "mapping values are not allowed",
        "a ':' stands where no key can be",
        "check the indentation, and put text that contains ': ' in quotes",
    ),
    _Saying(
        "could not find expected ':'",
        "this key has no ':'",
        "write 'key: value' with a space after the colon",
        opening=True,
    ),
    _Saying(
        "expected <block end>",
        "this line does not line up with those above",
        "give keys of one mapping the same indentation",
    ),
    _Saying(
        "unexpected end of stream",
        "the quotes that open here never close",
        "close them",
        opening=True,
    ),
    _Saying(
        "expected ',' or",
        "the bracket that opens here is not closed, or a ',' is missing in it",
        "close it, or add the ','",
        opening=True,
    ),
    _Saying("alphabetic or numeric character", "a name must follow this sign", _QUOTE),
    _Saying(
        "expected the node content", "a value is missing here", "write one, or remove the sign"
    ),
    _Saying("unknown escape character", "", "use single quotes: '...'"),
    _Saying("found undefined alias", "", "mark a value with '&NAME' before using '*NAME'"),
    _Saying(
        "another document", "a second document begins here", "keep one pipeline per file, no '---'"
    ),
)
_OTHER = _Saying("", "", "see https://yaml.org/spec/1.2.2, or put text in quotes")


def syntax_problem(error: Exception, text: str, locate: Callable[[int, int], Place]) -> Problem:
    """The problem behind an exception of ruamel's parser."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        place = locate(before.count("\n") + 1, len(before) - before.rfind("\n"))
        code = ord(text[error.position])
        if code in ESCAPED_BYTES:
            what = f"the byte 0x{code - ESCAPED_BYTES[0] + 0x80:02x} is not UTF-8"
            return Problem(*place, what, "name the file by a plain path, such as that of a link")
        what = f"the invisible character U+{code:04X} is not allowed"
        return Problem(*place, what, "remove it, or write it as an escape in double quotes")
    if isinstance(error, (RecursionError, MaxDepthExceededError)):
        place = locate(*_mark(error, opening=False))
        return Problem(*place, "the values are nested too deeply", "use fewer levels")
    if not isinstance(error, MarkedYAMLError):
        return Problem(*locate(0, 0), f"this is not YAML: {error}", _OTHER.fix)
    lines = text.splitlines()
    for opening in (False, True):
        line, _ = _mark(error, opening)
        odd = odd_character(lines[line - 1]) if 0 < line <= len(lines) else None
        if odd:
            return Problem(*locate(line, odd.column), odd.what, odd.fix)
    message = str(error.problem or error.note or error.context)
    saying = next((saying for saying in _SAYINGS if saying.sign in message), _OTHER)
    place = locate(*_mark(error, saying.opening))
    return Problem(*place, saying.what or f"this is not YAML: {message}", saying.fix)


def _mark(error: Exception, opening: bool) -> tuple[int, int]:
    """Line and column, from 1; of the construct's beginning if `opening`."""
    names = ("context_mark", "problem_mark") if opening else ("problem_mark", "context_mark")
    marks = (getattr(error, name, None) for name in names)
    mark = next((mark for mark in marks if mark is not None), None)
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)


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

    def node(self, path: KeyPath) -> Node | None:
        """The node at a path, if there is one."""
        found: Node | None = self.root
        for part in path:
            found = found.child(part) if found else None
        return found

    def place(self, path: KeyPath, side: Side = "key") -> Place:
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

    def with_node(self, path: KeyPath, node: Node) -> "Document":
        """A copy with another node at a path whose parent is a mapping or list."""
        return replace(self, root=_grafted(self.root, path, node))


def _grafted(tree: Node, path: KeyPath, node: Node) -> Node:
    if not path:
        return node
    first, rest = path[0], path[1:]
    value = tree.value.copy()
    value[first] = _grafted(value[first], rest, node) if rest else node
    return replace(tree, value=value)


def read_document(path: str | Path) -> Document:
    """Reads a pipeline file.

    Raises:
        PipelineProblems: there is no such file, or it is not a YAML mapping in UTF-8.
    """
    try:
        content = Path(path).read_bytes()
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
    file = Path(path)
    what = f"this cannot be read: {getattr(error, 'strerror', None) or error}"
    fix = "check its path and its rights"
    if isinstance(error, IsADirectoryError):
        what, fix = "this is a folder, not a file", _files_meant(file, "")
    elif isinstance(error, FileNotFoundError) and file.parent.is_dir():
        what, fix = "there is no such file", _files_meant(file.parent, file.name)
    elif isinstance(error, FileNotFoundError):
        what, fix = f"there is no folder '{file.parent}'", "check the path"
    return Problem(path, 0, 0, what, fix)


def _files_meant(folder: Path, name: str) -> str:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except OSError:
        names = []
    close = difflib.get_close_matches(name, names, n=1)
    meant = [str(folder / one) for one in close or names]
    if close:
        return f"did you mean '{meant[0]}'?"
    return f"name {listed(meant)}" if meant else "name a pipeline file (.yaml)"


def yaml_text(data: Mapping[str, Any]) -> str:
    """A mapping as a YAML document that reads as an equal one; text that needs care is quoted."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer, yaml.Resolver = _Representer, _CoreResolver
    yaml.default_flow_style = None  # mappings and lists of plain values on one line
    yaml.representer.sort_base_mapping_type_on_output = False
    yaml.width = 2**31
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


class _Representer(SafeRepresenter):
    """Writes plain data without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(representer: _Representer, text: str) -> ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return representer.represent_scalar(f"{_TAG}str", text, style=style)


_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_Representer.add_representer(str, _represent_text)
