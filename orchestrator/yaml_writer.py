"""Writes plain data as YAML that every reader takes for the same: block mappings, JSON inside.

JSON is YAML 1.2, so only the outer levels are laid out for people; characters that YAML folds or
forbids are escaped.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

BLOCK_LEVELS = 3
"""Levels of mappings with one key per line: the pipeline, its jobs, their fields; and where a group
has jobs, those and their fields."""

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_NOT_TEXT = {"null", "true", "false", ".inf", ".nan"}


def yaml_text(data: Mapping[str, Any]) -> str:
    """A mapping as a YAML document."""
    return "".join(f"{line}\n" for line in _lines(data, 0, BLOCK_LEVELS))


def _lines(data: Mapping[str, Any], level: int, blocks: int) -> Iterator[str]:
    indent = "  " * level
    for key, value in data.items():
        more = level + BLOCK_LEVELS if key == "jobs" else blocks
        if isinstance(value, Mapping) and value and level + 1 < more:
            yield f"{indent}{_scalar(key)}:"
            yield from _lines(value, level + 1, more)
        else:
            yield f"{indent}{_scalar(key)}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_scalar(key)}: {_flow(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_flow, value))}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, allow_nan=False)
    if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return "".join(char if char.isprintable() else _escape(char) for char in _quoted(value))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
