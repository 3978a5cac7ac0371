"""What a cluster has, what a job needs of it (devices, workers), and what a job costs."""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field

from slimctl.models.spec import Spec

BESIDE_GPU = 4
"""CPUs beside a GPU, where its node has as many: a training thread, one that reads ahead, and the
parts of a metric that stay on the CPU."""

ROUNDING = 1e-6
"""Parts of a device that are no more than rounding."""


@dataclass(frozen=True, order=True)
class NodeSize:
    """Devices of one node."""

    cpus: float
    gpus: float = 0

    def room(self, part: "NodeSize") -> int:
        """How many parts of that size fit on an empty node; any number of those without size."""
        sizes = [(self.cpus, part.cpus), (self.gpus, part.gpus)]
        fitting = [math.floor(has / size + ROUNDING) for has, size in sizes if size > 0]
        return min(fitting, default=sys.maxsize)


@dataclass(frozen=True)
class Needs:
    """Devices that a job occupies while it runs, over all its parts."""

    cpus: float
    gpus: float
    parts: int = 1
    """Equal parts that may lie on different nodes; each has to fit on one."""

    @property
    def part(self) -> NodeSize:
        """What one part occupies."""
        return NodeSize(self.cpus / self.parts, self.gpus / self.parts)


class Resources(Spec):
    """GPUs that a cluster is going to have, such as those that its autoscaler starts on request."""

    gpus: int = Field(ge=0, strict=True)
    """GPUs in all, with those that are there; 0 = those that are there."""
    gpus_per_node: int | None = Field(default=None, ge=1, strict=True)
    """Of the nodes that are to come; null = as many as the largest node has, else all on one."""
    gpu_memory_gib: float | None = Field(default=None, gt=0)
    """Memory of the smallest GPU, GiB, that jobs must fit; null = that of GPUs of this machine."""


@dataclass(frozen=True)
class Cluster:
    """What the cluster has in all, whoever uses it now, so that no result depends on who does."""

    cpus: int
    gpus: int = 0
    nodes: tuple[NodeSize, ...] = ()
    """Devices of each node, in ascending order; none given = all on one."""
    startable: tuple[tuple[NodeSize, int], ...] = ()
    """Nodes that the cluster says its autoscaler can start, and how many of each in all. Ray tells
    it of some managed clusters only."""

    def __post_init__(self) -> None:
        if not self.nodes:
            object.__setattr__(self, "nodes", (NodeSize(self.cpus, self.gpus),))

    @classmethod
    def of(cls, nodes: Iterable[NodeSize], startable: Iterable[tuple[NodeSize, int]] = ()) -> Self:
        """A cluster of these nodes."""
        found = tuple(sorted(nodes))
        cpus, gpus = sum(node.cpus for node in found), sum(node.gpus for node in found)
        return cls(int(cpus), int(gpus), found, tuple(sorted(startable)))

    def expecting(self, resources: Resources | None) -> Self:
        """The cluster as it will be when the GPUs that are expected are there.

        Of nodes that are to come a CPU per GPU is assumed; jobs are laid out again when they are
        there.
        """
        missing = resources.gpus - self.gpus if resources else 0
        if resources is None or missing <= 0:
            return self
        largest = int(max(node.gpus for node in self.nodes))
        size = resources.gpus_per_node or largest or missing
        sizes = [size] * (missing // size) + [missing % size] * (missing % size > 0)
        return type(self).of([*self.nodes, *(NodeSize(n, n) for n in sizes)], self.startable)

    @property
    def beside_gpu(self) -> float:
        """CPUs for the work on one GPU, so that all GPUs of any node can work at once.

        Up to 4, whole numbers but below 1: where a node has fewer CPUs than GPUs they share them.
        """
        shares = [node.cpus / node.gpus for node in self.nodes if node.gpus]
        share = min([BESIDE_GPU, *shares])
        return float(math.floor(share)) if share >= 1 else math.floor(100 * share) / 100

    def room(self, part: NodeSize) -> int:
        """How many parts of that size fit on the empty nodes."""
        return sum(node.room(part) for node in self.nodes)

    def most_room(self, part: NodeSize) -> int:
        """How many would fit if all nodes were there that can be started."""
        return self.room(part) + sum(count * size.room(part) for size, count in self.startable)

    @property
    def startable_gpus(self) -> int:
        """GPUs that the cluster says it can start."""
        return int(sum(count * size.gpus for size, count in self.startable))

    def __str__(self) -> str:
        sizes = {size: self.nodes.count(size) for size in reversed(self.nodes)}
        return ", ".join(f"{count} x ({in_devices(size)})" for size, count in sizes.items())


def in_devices(size: NodeSize) -> str:
    """Devices in words, such as `4 CPUs and 1 GPU`."""
    named = ((size.cpus, "CPU"), (size.gpus, "GPU"))
    words = [f"{n:g} {name}{'s' if n != 1 else ''}" for n, name in named if n]
    return " and ".join(words) or "no device"


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
