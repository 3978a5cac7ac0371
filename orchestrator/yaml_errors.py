"""What is wrong with text that is no YAML, in words for somebody who does not know the grammar."""

import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from slimctl.orchestrator.problems import Place, Problem


class _Saying(NamedTuple):
    """How to say a complaint of ruamel's.

    Args:
        sign: part of its message.
        what: what is wrong; "" = its own message.
        fix: what to do.
        opening: whether to point at where the construct begins, not at where it broke.
    """

    sign: str
    what: str
    fix: str
    opening: bool = False


class Odd(NamedTuple):
    """A character that looks like another, which YAML means something by.

    Args:
        column: where it stands, from 1.
        what: what is wrong.
        fix: what to do.
    """

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
    """The problem behind an exception of ruamel's parser.

    Args:
        error: the exception.
        text: what was parsed.
        locate: makes a place of a line and a column, from 1.
    """
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
        place = locate(*_mark(error, opening=False)) if _is_marked(error) else locate(0, 0)
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


def _is_marked(error: Exception) -> bool:
    return isinstance(error, MarkedYAMLError)


def _mark(error: Exception, opening: bool) -> tuple[int, int]:
    """Line and column, from 1; of the construct's beginning if `opening`."""
    marks = [getattr(error, name, None) for name in ("problem_mark", "context_mark")]
    mark = next((mark for mark in (marks[::-1] if opening else marks) if mark is not None), None)
    return (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
