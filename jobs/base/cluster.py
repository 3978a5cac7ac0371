"""What a cluster has and what a job needs of it: devices, and workers between two numbers."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from slimctl.models.spec import Spec


@dataclass(frozen=True)
class Cluster:
    """What the cluster has in all, whoever uses it now, so that no result depends on who does."""

    cpus: int
    gpus: int = 0
    node_cpus: int = 1
    """CPUs of the smallest node that has any."""


@dataclass(frozen=True)
class Needs:
    """Devices that a job occupies while it runs."""

    cpus: float
    gpus: float


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
