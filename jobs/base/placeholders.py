"""`${seed}` in plain data: where values are put into a template of jobs.

A text that is one placeholder becomes the value itself, a number, a mapping or whatever it is;
inside a longer text a value stands as text. `$${` is a plain `${`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]{0,31}$"
"""Names of variables: they stand between dots and '=' in the names of jobs."""

KeyPath = tuple[str | int, ...]


def placeholders(template: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every placeholder in plain data: (path of the text that holds it, name of the variable)."""
    if isinstance(template, str):
        found = PLACEHOLDER.finditer(template) if "$" in template else ()
        yield from ((path, match[1].strip()) for match in found if match[1] is not None)
    elif isinstance(template, Mapping):
        for key, item in template.items():
            yield from placeholders(item, (*path, str(key)))
    elif isinstance(template, (list, tuple)):
        for number, item in enumerate(template):
            yield from placeholders(item, (*path, number))


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with values in the place of its placeholders.

    Args:
        template: plain data; what holds no placeholder is returned as it is.
        values: name of a variable -> value. Placeholders of other names stay.
    """
    if isinstance(template, str):
        return _filled_text(template, values) if "${" in template else template
    if isinstance(template, Mapping):
        return {key: fill(item, values) for key, item in template.items()}
    if isinstance(template, (list, tuple)):
        return [fill(item, values) for item in template]
    return template


def _filled_text(text: str, values: Mapping[str, Any]) -> Any:
    whole = PLACEHOLDER.fullmatch(text)
    if whole and whole[1] is not None:
        return values.get(whole[1].strip(), text)

    def written(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        name = match[1].strip()
        return as_text(values[name]) if name in values else match[0]

    return PLACEHOLDER.sub(written, text)


def in_words(values: Mapping[str, Any]) -> str:
    """Values of variables as `width 8, seed 0`."""
    return ", ".join(f"{name} {as_text(value)}" for name, value in values.items())


def as_text(value: Any) -> str:
    """A value as it stands inside a text: as a file would have it."""
    return value if isinstance(value, str) else json.dumps(value)
