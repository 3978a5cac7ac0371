"""YAML text as a tree of values that know their line and column.

The text is composed once by ruamel.yaml and read by the core schema of YAML 1.2 and nothing more:
`1e-4` is a number; `no`, `on`, dates and `1_000` are text; keys are text as written. Anchors,
aliases and merge keys (`<<`) work; a value reached through an alias stands where its anchor is.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.resolver import VersionedResolver

from slimctl.orchestrator.problems import PipelineProblems, Place, Problem, raise_problems
from slimctl.orchestrator.yaml_errors import odd_character, syntax_problem

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


def _by_first_character() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, (pattern, firsts) in _CORE_SCHEMA.items():
        for first in firsts:
            table.setdefault(first, []).append((_TAG + name, pattern))
    return table


_RESOLVERS = _by_first_character()


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
