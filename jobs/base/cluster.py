"""What a cluster has and what a job needs of it."""

from dataclasses import dataclass


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
