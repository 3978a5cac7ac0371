"""What a cluster has, what a job needs of it (devices, workers), and what a job costs."""

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


FORWARD = 2
"""Operations per multiply-add of an evaluation."""
TRAINING = 6
"""Of an evaluation and its gradient in weights and inputs."""
THROUGH = 4
"""Of an evaluation and its gradient in the inputs only."""


@dataclass(frozen=True)
class Work:
    """What a job has to compute; what is not counted is small beside it or said in `assumed`.

    Args:
        parameters: of the network that the job trains or runs.
        macs: multiply-adds of one evaluation of it for one image.
        flop: floating-point operations of the whole job.
        assumed: what had to be assumed or was left out.
    """

    parameters: int
    macs: int
    flop: float
    assumed: tuple[str, ...] = ()
