"""JobSpec: a node of the graph as pure data, and the markers its fields carry.

A field that is not marked enters the key of the result. Forgetting a marker costs a re-run,
never a wrong result.
"""

from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.base.cluster import Cluster, Needs, Work
from slimctl.jobs.base.duration import Duration
from slimctl.jobs.base.facts import Facts, SpecWarning
from slimctl.jobs.base.fingerprint import content_of_files
from slimctl.jobs.base.memory import Memory
from slimctl.jobs.base.refs import Ref, ref_types, takes_many
from slimctl.models.spec import Marker, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slimctl.jobs.base.context import JobContext
    from slimctl.jobs.storage.store import Store


SPEED_ONLY = Marker("changes how fast a result is made, not the result")
BY_CONTENT = Marker("names files outside the store; they enter the key by content, not by path")
GROWS = Marker("how many items of an endless series are wanted; kept out of the series' key")

Placement = Literal["shared", "own", "alone"]


class JobSpec(Spec):
    """One job of a pipeline: what is asked, and how to do it.

    A subclass lives alone in `jobs/kinds/<kind>.py`; its inputs are its `Ref` fields, its output is
    the return type of `run`. `run` must be idempotent: after a crash it is called again with the
    same work folder.
    """

    version: ClassVar[int] = 1
    """Raised when the same spec would give another result than before."""
    placement: ClassVar[Placement] = "shared"
    """shared: short work that runs inside a worker shared with other jobs, on one device;
    own: an actor of its own that holds no CPU and spreads its work over further actors;
    alone: an actor of its own that holds the devices and does the work itself."""

    timeout: Annotated[Duration | None, SPEED_ONLY] = None
    """Time that a run gives the job, s, or as 2h30m; then it stops at a checkpoint, from which
    `resume` goes on. null = any."""

    @model_validator(mode="before")
    @classmethod
    def _name_as_list(cls, data: Any) -> Any:
        """A field that names many jobs takes a single name too, such as that of a group's jobs."""
        if not isinstance(data, dict):
            return data
        many = {name for name in many_ref_fields(cls) if isinstance(data.get(name), (str, Ref))}
        return {**data, **{name: [data[name]] for name in many}} if many else data

    @abstractmethod
    def run(self, context: "JobContext") -> Handle:
        """Does the work and returns the handle of the result.

        Raises:
            UserError: the inputs cannot be used as asked; never retried.
        """

    def fingerprint(self) -> dict[str, str]:
        """Content of outside files that the result depends on: name -> sha256.

        Of each field that is marked BY_CONTENT and names one file, unless a kind says otherwise.
        """
        marked = (k for k, info in type(self).model_fields.items() if BY_CONTENT in info.metadata)
        named = {name: Path(path) for name in marked if (path := getattr(self, name))}
        return {name: content_of_files([path], path) for name, path in named.items()}

    def keyed(self, content: dict[str, Any], inputs: "Mapping[str, str]") -> dict[str, Any]:
        """What enters the key of the result for the fields: they, unless a kind adds to them.

        Args:
            content: the fields, references replaced by the ids of the artifacts.
            inputs: job name -> artifact id of every input.
        """
        return content

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        """What is known of the result before anything runs, for checks and estimates.

        Args:
            inputs: facts of each input, by field name; those of a field that names many jobs as
                `students.0`, `students.1`, ...

        Raises:
            FieldError: a field contradicts what is known of an input.
        """
        return Facts()

    def warnings(self, inputs: "Mapping[str, Facts]") -> list[SpecWarning]:
        """What makes the result say little although nothing is wrong; it stops nothing."""
        return []

    def chooses_by(self) -> tuple[str, ...]:
        """Jobs whose features choose among what this one could make, such as among its weights."""
        return ()

    def averaged(self) -> bool:
        """Whether averages of other lengths can be made of its result's weights."""
        return False

    def placed(self, cluster: Cluster) -> Placement:
        """Where this job runs: where its kind does, unless its fields say otherwise."""
        return self.placement

    def parts(self) -> int | None:
        """Number of parts of the result, over which a group of jobs can iterate.

        Returns:
            The number as far as the spec tells; None = the result has no parts.
        """
        return None

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        """What the job has to compute; None where that is little, or not known before it runs."""
        return None

    def wants_gpu(self) -> bool:
        """Whether `run` works on `context.device`: the job then holds a GPU where there is one."""
        return False

    def memory(
        self, inputs: "Mapping[str, Facts]", cluster: Cluster, limit: int | None
    ) -> Memory | None:
        """What the job takes of each device; None where that is little, or not known.

        Args:
            inputs: facts of each input, by field name.
            cluster: that it would run on.
            limit: bytes of a device; None = not known.
        """
        return None

    def needs(self, cluster: Cluster) -> Needs:
        """Devices that must be free before the job starts: a CPU, or a GPU and CPUs beside it."""
        if self.wants_gpu() and cluster.gpus:
            return Needs(cpus=cluster.beside_gpu, gpus=1)
        return Needs(cpus=min(1, cluster.cpus) if cluster.gpus else 1, gpus=0)

    def preflight(self) -> Facts | None:
        """Reads outside input before anything starts.

        Returns:
            What was learned of the result; None = no more than `expect` tells.

        Raises:
            UserError: that input cannot be used.
        """
        return None

    def recheck(
        self, store: "Store", handle: Handle, inputs: "Mapping[str, Handle]", count: int
    ) -> list[str]:
        """Makes a random part of a finished result again and compares.

        Args:
            store: where it is.
            handle: the result.
            inputs: job name -> handle.
            count: how much of it, such as pairs.

        Returns:
            What differs, one sentence each; nothing where a kind cannot be checked so.
        """
        return []


class SeededJobSpec(JobSpec):
    """A job that draws random numbers."""

    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Seed of every random number of the job; null = the pipeline's."""


@cache
def ref_fields(kind: type[JobSpec]) -> "Mapping[str, tuple[type, ...]]":
    """Fields of a kind that can name another job -> handle types that they take."""
    annotated = {name: ref_types(info.annotation) for name, info in kind.model_fields.items()}
    return {name: types for name, types in annotated.items() if types}


@cache
def many_ref_fields(kind: type[JobSpec]) -> frozenset[str]:
    """Fields of a kind that name any number of jobs."""
    infos = kind.model_fields.items()
    return frozenset(name for name, info in infos if takes_many(info.annotation))


@cache
def outside_fields(kind: type[JobSpec]) -> tuple[str, ...]:
    """Fields of a kind that name files outside the store."""
    return tuple(name for name, info in kind.model_fields.items() if BY_CONTENT in info.metadata)


@cache
def output_type(kind: type[JobSpec]) -> type[Handle]:
    """The handle type that a kind's `run` declares to return."""
    import slimctl.jobs.base.context as context_module  # noqa: PLC0415  (names in annotations)

    hints = get_type_hints(kind.run, localns={"JobContext": context_module.JobContext})
    declared: Any = hints["return"]
    if not (isinstance(declared, type) and issubclass(declared, Handle)):
        raise TypeError(f"{kind.__module__}: run() must declare the handle type that it returns")
    return declared
