"""How many workers a job takes: a number, or as many as there are between two numbers."""

from typing import Any

from pydantic import Field

from slimctl.models.spec import Spec


class Range(Spec):
    """Between `min` and `max`, as the cluster grows and shrinks."""

    min: int = Field(ge=1)
    """It starts with so many, and waits for no more."""
    max: int = Field(ge=1)
    """It never takes more."""


def range_mistake(value: Any) -> str:
    """What is wrong with a number of workers that may be a range; "" if nothing is.

    Asked by the specs and not by `Range`: an error inside a union would name every alternative.
    """
    if isinstance(value, Range) and value.min > value.max:
        return f"min {value.min} is larger than max {value.max}"
    return ""
