"""Durations as people write them: `90m`, `1h30m`, `2d`, or a number of seconds."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_WRITTEN = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?"
                      r"(?:(\d+(?:\.\d+)?)s)?")  # fmt: skip


def seconds(value: Any) -> Any:
    """A written duration in seconds; anything but text is left to the type.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(value, str):
        return value
    found = _WRITTEN.fullmatch(value.replace(" ", ""))
    if not found or not any(found.groups()):
        raise ValueError(f"'{value}' is no duration: write 90m, 1h30m, 2d, or a number of seconds")
    parts = zip(found.groups(), UNITS.values(), strict=True)
    return sum(float(count) * unit for count, unit in parts if count)


Duration = Annotated[
    float, BeforeValidator(seconds, json_schema_input_type=float | str), Field(gt=0)
]
"""A duration in seconds."""
