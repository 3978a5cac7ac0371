"""What a running job knows of the world around it: inputs, folders, devices and a way to report."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.refs import Ref

if TYPE_CHECKING:
    from slimctl.jobs.storage.blobs import Blobs
    from slimctl.jobs.storage.store import Store

HandleT = TypeVar("HandleT", bound=Handle)


class Reporter(ABC):
    """Takes what a job says while it runs. Must survive pickling: workers get a copy."""

    @abstractmethod
    def send(self, job: str, event: str, **details: Any) -> None:
        """Passes an event on without waiting for it."""


class SilentReporter(Reporter):
    """Keeps nothing: for work outside a run."""

    def send(self, job: str, event: str, **details: Any) -> None:
        """Drops the event."""


@dataclass(frozen=True)
class Handles:
    """A job's inputs, and where their files are: all that travels to its workers."""

    store: "Store"
    artifact_id: str
    """Of the job's result."""
    inputs: Mapping[str, Handle]
    """Job name -> handle."""

    def __getitem__(self, ref: Ref[HandleT]) -> HandleT:
        """The handle behind a reference of the spec."""
        return cast("HandleT", self.inputs[ref.job])


@dataclass
class JobContext:
    """Handed to `JobSpec.run`.

    Args:
        job: name of the job in its pipeline.
        artifact_id: id of the result that is being made.
        store: where inputs are.
        inputs: job name -> handle.
        folder: fresh local folder for the files of the result.
        cluster: the whole cluster.
        device: torch device for work done in this process.
        threads: CPU threads for work done in this process.
        reporter: takes progress, messages and warnings.
    """

    job: str
    artifact_id: str
    store: "Store"
    inputs: Mapping[str, Handle]
    folder: Path
    cluster: Cluster
    device: str = "cpu"
    threads: int = 1
    reporter: Reporter = field(default_factory=SilentReporter)
    notes: list[str] = field(default_factory=list)
    """Kept with the artifact."""
    engine: dict[str, Any] = field(default_factory=dict)
    """How it was run; kept with the artifact."""
    device_s: float | None = None
    """Device seconds spent; None = wall time on one device."""

    @property
    def handles(self) -> Handles:
        """The inputs as they travel to workers."""
        return Handles(self.store, self.artifact_id, self.inputs)

    def input(self, ref: Ref[HandleT]) -> HandleT:
        """The handle behind a reference of the spec."""
        return self.handles[ref]

    @property
    def work(self) -> "Blobs":
        """Folder for unfinished work that survives this attempt."""
        return self.store.work(self.artifact_id)

    def progress(self, done: int, total: int, **metrics: float) -> None:
        """Says how far the job is; `metrics` become curves in tracking, with `done` as step."""
        self.reporter.send(self.job, "progress", done=done, total=total, metrics=metrics)

    def log(self, message: str) -> None:
        """Writes a line to the job's log."""
        self.reporter.send(self.job, "log", message=message)

    def warn(self, message: str) -> None:
        """Warns the user; kept with the artifact."""
        self.notes.append(message)
        self.reporter.send(self.job, "warning", message=message)
