"""Whether jobs fit into the memory of the devices that they would run on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slimctl.jobs.base.cluster import Cluster, Resources
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.memory import GIB, Memory, in_gib
from slimctl.jobs.search.spec import SearchSpec
from slimctl.orchestrator.pipeline.diagnostics import Mistake, Problem, field_path
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.planning.graph import Graph

FIX = "use a device with more memory, or a smaller network or images"


@dataclass(frozen=True)
class MemoryPlan:
    """What jobs take of each device.

    Args:
        limit: bytes of the smallest device; None = not known.
        jobs: memory of each job whose is known; of a search, that of its largest trial.
    """

    limit: int | None = None
    jobs: Mapping[str, Memory] = field(default_factory=dict)

    def mistakes(self, pipeline: Pipeline) -> list[Mistake]:
        """Jobs that no micro-batch makes fit: what stays alone is too large."""
        return [
            Mistake(self._path(pipeline, job), self._lack(job), self._fix(job))
            for job, memory in self.jobs.items()
            if self.limit is not None and memory.lasting > self.limit
        ]

    def warnings(self, pipeline: Pipeline) -> list[Problem]:
        """Jobs that by the estimate do not fit."""
        return [
            Mistake(self._path(pipeline, job), self._lack(job), self._fix(job)).at(pipeline.places)
            for job, memory in self.jobs.items()
            if self.limit is not None and memory.lasting <= self.limit < memory.total
        ]

    def as_json(self, job: str) -> dict[str, Any] | None:
        """The memory of a job as plain data; None if it is not known."""
        memory = self.jobs.get(job)
        if memory is None:
            return None
        return {
            "bytes": memory.total,
            "parts": dict(memory.parts),
            "at_once": memory.samples,
            "checkpoint_activations": memory.recomputes,
            "shard": "full" if memory.sharded else "none",
            "fits": None if self.limit is None else memory.fits(self.limit),
        }

    def _path(self, pipeline: Pipeline, job: str) -> tuple[str | int, ...]:
        return pipeline.made.written(field_path(job, "network"))

    def _lack(self, job: str) -> str:
        memory, limit = self.jobs[job], self.limit or 0
        if memory.lasting > limit:
            what = (
                f"the weights of job '{job}' and what stays with them take "
                f"{in_gib(memory.lasting)}, before a single sample"
            )
        else:
            what = (
                f"job '{job}' takes about {in_gib(memory.total)} with {memory.samples} "
                f"sample{'s' if memory.samples > 1 else ''} at once"
            )
        return f"{what}; a device has {in_gib(limit)}"

    def _fix(self, job: str) -> str:
        return ", ".join([*self.jobs[job].remedies, FIX])


def device_limit(resources: Resources | None, here: int | None) -> int | None:
    """Bytes of the smallest GPU: as the pipeline says, else of this machine; None = not known."""
    if resources is not None and resources.gpu_memory_gib is not None:
        return int(resources.gpu_memory_gib * GIB)
    return here


def memory_plan(
    pipeline: Pipeline,
    graph: Graph,
    facts: Mapping[str, Facts],
    cluster: Cluster,
    limit: int | None,
) -> MemoryPlan:
    """The memory of each job of a resolved pipeline.

    Args:
        pipeline: resolved.
        graph: of that pipeline.
        facts: what is known of each job's result.
        cluster: that it would run on.
        limit: bytes of the smallest device; None = not known.
    """
    found: dict[str, Memory] = {}
    for name, spec in pipeline.specs.items():
        if isinstance(spec, SearchSpec):
            continue
        inputs = {field: facts.get(source, Facts()) for field, source in graph.edges[name]}
        memory, shown = spec.memory(inputs, cluster, limit), pipeline.made.owner(name)
        if memory is None or (shown in found and found[shown].total >= memory.total):
            continue
        found[shown] = memory
    return MemoryPlan(limit, found)
