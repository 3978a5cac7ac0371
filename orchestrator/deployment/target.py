"""What a launch file is made from: the pipeline, and the machines that one asks for."""

from dataclasses import dataclass
from pathlib import Path

from slimctl.jobs.base.errors import UserError


@dataclass(frozen=True)
class Machines:
    """What to ask a cluster for."""

    nodes: int = 1
    cpus: int | None = None
    """CPUs of each node; None = the whole node of Slurm, 8 of Kubernetes."""
    gpus: int = 0
    """GPUs of each node."""
    memory_gib: int | None = None
    """Memory of each node, GiB; None = as the cluster says."""


@dataclass(frozen=True)
class Target:
    """A pipeline on its way to a cluster."""

    name: str
    file: str
    """The pipeline file, as the user named it."""
    pipeline: str
    """The resolved pipeline as YAML."""
    storage: str
    """URI or folder of its store."""
    machines: Machines

    @property
    def local(self) -> bool:
        """Whether the store is a folder, which every node has to see."""
        return "://" not in self.storage

    @property
    def label(self) -> str:
        """The name as Kubernetes takes it: lower case, digits and hyphens."""
        kept = "".join(char if char.isalnum() else "-" for char in self.name.lower())
        return f"slimctl-{kept}".strip("-")[:47].rstrip("-")


def checked_folder(storage: str, nodes: int) -> str:
    """The folder of a local store from the root.

    Raises:
        UserError: it is one that each of several nodes has of its own.
    """
    path = Path(storage).absolute()
    own = path.is_relative_to("/tmp") or path.is_relative_to("/dev/shm")
    if own and nodes > 1:
        what = f"{path} is a folder that each node has of its own"
        raise UserError("storage", what, "name one that all nodes see, or s3://bucket/folder")
    return str(path)
