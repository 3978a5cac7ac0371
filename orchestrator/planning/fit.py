"""Which jobs of a plan no node of a cluster can hold, however long they wait."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slimctl.jobs.base.cluster import Cluster, in_devices
from slimctl.jobs.base.registry import parse_job
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.search.spec import SearchSpec
from slimctl.orchestrator.pipeline.diagnostics import Mistake, Problem
from slimctl.orchestrator.pipeline.groups import said_once
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan


@dataclass(frozen=True)
class Misfit:
    """A job that asks for more than a cluster can have."""

    job: str
    what: str
    fix: str


def misfits(plan: RunPlan, cluster: Cluster) -> list[Misfit]:
    """The jobs to run, of searches those of their trials too, that can never start there."""
    found = []
    for job in (one for one in plan.jobs if one.action != "reuse"):
        for part, spec in _specs(job):
            needs = spec.needs(cluster)
            room = cluster.most_room(needs.part)
            if room < needs.parts:
                asked = f"{needs.parts} x ({in_devices(needs.part)})"
                what = f"{part} needs {asked}, of which {room} fit on the nodes: {cluster}"
                fix = "lower its workers, actors or threads, or run it on a larger cluster"
                found.append(Misfit(job.name, what, fix))
                break
    return found


def misfit_problems(pipeline: Pipeline, found: Iterable[Misfit]) -> list[Problem]:
    """The same at the places where the jobs were written."""
    mistakes = [Mistake(("jobs", one.job), one.what, one.fix) for one in found]
    return [mistake.at(pipeline.places) for mistake in said_once(mistakes, pipeline.made)]


def _specs(job: PlannedJob) -> Iterator[tuple[str, JobSpec]]:
    """A job, and those of a search's trials at the ends of its space, in words."""
    spec = parse_job(job.kind, job.fields)
    yield f"job '{job.name}'", spec
    if isinstance(spec, SearchSpec):
        for specs in spec.corners():
            for member, one in specs.items():
                yield f"'{member}' of the trials of '{job.name}'", one
