"""What a pipeline costs before it runs: operations per job, and GPU-hours at a stated rate.

A pure function of the jobs and of what is known of their inputs. The rate is an assumption that the
user can change, never a measurement: it stands wherever hours do, and without one there are none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.search.propose import candidates
from slimctl.jobs.search.spec import SearchSpec
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.memory import MemoryPlan

if TYPE_CHECKING:
    from slimctl.orchestrator.planning.plan import RunPlan

PETA = 1e15


@dataclass(frozen=True)
class Estimate:
    """What a plan costs.

    Args:
        work: of each job whose work is known, the finished ones too.
        due: jobs that the plan runs.
        tflops: assumed rate of a GPU; None = no rate, so that hours are not known.
        unknown: jobs that cost something that is not known before they run.
        uncounted: jobs that cost much and whose kind gives no figure.
    """

    work: Mapping[str, Work]
    due: frozenset[str]
    tflops: float | None
    unknown: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()

    def pflop(self, job: str) -> float | None:
        """1e15 operations of a job; None if they are not known."""
        found = self.work.get(job)
        return None if found is None else found.flop / PETA

    def gpu_hours(self, job: str) -> float | None:
        """Hours of one GPU that a job takes; 0 for what is done, None if not known."""
        if job not in self.due:
            return self._hours(0.0)
        found = self.work.get(job)
        return None if found is None else self._hours(found.flop)

    @property
    def total_pflop(self) -> float:
        """1e15 operations of all jobs that are going to run."""
        return sum(self.work[job].flop for job in self.due & self.work.keys()) / PETA

    @property
    def total_gpu_hours(self) -> float | None:
        """Hours of one GPU of all jobs that are going to run; None without a rate."""
        return self._hours(self.total_pflop * PETA)

    def _hours(self, flop: float) -> float | None:
        return None if self.tflops is None else flop / (self.tflops * 1e12) / 3600

    def assumed(self) -> dict[str, list[str]]:
        """What the figures rest on, and the jobs that each concerns."""
        said: dict[str, list[str]] = {}
        for job, work in self.work.items():
            for line in work.assumed:
                said.setdefault(line, []).append(job)
        if self.unknown:
            said["not counted, as their networks or images are not known yet"] = [*self.unknown]
        if self.uncounted:
            said["not counted, as their kinds give no figure"] = [*self.uncounted]
        return said

    def assumptions(self) -> list[str]:
        """What the figures rest on, each with all the jobs that it concerns."""
        return [f"{line} ({', '.join(jobs)})" for line, jobs in self.assumed().items()]


def is_open(known: Facts) -> bool:
    """Whether outside input has to be read to know what later jobs cost and can say."""
    is_flow = known.made == Flow.__name__
    return (is_flow and known.network is None) or (
        known.made == Dataset.__name__ and (known.image is None or known.count is None)
    )


def estimate(
    pipeline: Pipeline,
    graph: Graph,
    facts: Mapping[str, Facts],
    plan: "RunPlan",
    tflops: float | None,
) -> Estimate:
    """Adds up the work of a plan.

    Args:
        pipeline: resolved.
        graph: of that pipeline.
        facts: what is known of each job's result.
        plan: what is there already.
        tflops: assumed rate of a GPU, 1e12 operations per second, > 0; None = none is assumed.
    """
    work: dict[str, Work] = {}
    unknown: list[str] = []
    uncounted: list[str] = []
    for name in (job.name for job in plan.jobs if not job.search):
        spec, found = pipeline.specs[name], _work_of(name, pipeline, graph, facts)
        if found is not None:
            work[name] = found
        elif type(spec).work is not JobSpec.work:
            unknown.append(name)
        elif spec.placement == "own":
            uncounted.append(name)
    due = frozenset(job.name for job in plan.jobs if job.action != "reuse")
    return Estimate(work, due, tflops, tuple(unknown), tuple(uncounted))


def with_work(
    plan: "RunPlan", pipeline: Pipeline, graph: Graph, facts: Mapping[str, Facts]
) -> "RunPlan":
    """A plan whose jobs carry their work, so that those on the longest path can go first."""
    jobs = []
    for job in plan.jobs:
        due = job.action != "reuse"
        work = _work_of(job.name, pipeline, graph, facts) if due else None
        jobs.append(job.model_copy(update={"flop": work.flop}) if work else job)
    return plan.model_copy(update={"jobs": tuple(jobs)})


def _work_of(
    name: str, pipeline: Pipeline, graph: Graph, facts: Mapping[str, Facts]
) -> Work | None:
    """The work of a job; that of a search is taken from the trials at the ends of its space."""

    def alone(job: str) -> Work | None:
        inputs = {field: facts.get(source, Facts()) for field, source in graph.edges[job]}
        return pipeline.specs[job].work(inputs)

    spec, made = pipeline.specs[name], pipeline.made
    if not isinstance(spec, SearchSpec):
        return alone(name)
    trials = [job for job in pipeline.specs if job != name and made.owner(job) == name]
    found = [work for work in map(alone, trials) if work is not None]
    if not found:
        return None
    planned = candidates(spec)
    count = getattr(spec.search, "trials", 0) if planned is None else len(planned)
    said = dict.fromkeys(line for work in found for line in work.assumed)
    return Work(
        parameters=max(work.parameters for work in found),
        macs=max(work.macs for work in found),
        flop=sum(work.flop for work in found) * count / len(made.iterations[name]),
        assumed=(*said, f"{count} trials like those at the ends of its space, none cut short"),
    )


def plan_json(plan: "RunPlan", found: Estimate, memory: MemoryPlan | None = None) -> dict[str, Any]:
    """The plan as plain data, with each job's cost and memory, and the totals."""
    data = plan.model_dump(mode="json")
    for job in data["jobs"]:
        work = found.work.get(job["name"])
        job |= {
            "parameters": work and work.parameters,
            "macs": work and work.macs,
            "pflop": found.pflop(job["name"]),
            "gpu_hours": found.gpu_hours(job["name"]),
            "memory": memory.as_json(job["name"]) if memory else None,
        }
        hours = found.gpu_hours(job["name"])
        job["cost"] = plan.price.of({"GPU": hours}) if plan.price and hours is not None else None
    total = found.total_gpu_hours
    data["estimate"] = {
        "cost": plan.price.of({"GPU": total}) if plan.price and total is not None else None,
        "tflops": found.tflops,
        "pflop": found.total_pflop,
        "gpu_hours": found.total_gpu_hours,
        "assumed": found.assumptions(),
    }
    return data
