"""What is no mistake and yet makes a result say little: told before anything starts, stops nothing.

A doubt that several jobs have for the same reason is told once, where the first of them stands.
"""

from collections.abc import Container, Mapping

from slimctl.jobs.base.facts import Doubt, Facts
from slimctl.orchestrator.graph import Graph
from slimctl.orchestrator.messages import field_path
from slimctl.orchestrator.pipeline import Pipeline
from slimctl.orchestrator.problems import Path, Problem, listed


def doubts(
    pipeline: Pipeline,
    graph: Graph,
    facts: Mapping[str, Facts],
    only: Container[str] | None = None,
) -> list[Problem]:
    """What is doubtful about the jobs, at the places where they were written.

    Args:
        pipeline: checked.
        graph: of that pipeline.
        facts: what is known of each job's result.
        only: jobs that are going to run; None = all.
    """
    said: dict[Doubt, list[str]] = {}
    for name in graph.order:
        if only is not None and name not in only:
            continue
        inputs = {place: facts[source] for place, source in graph.edges[name]}
        for doubt in pipeline.specs[name].doubts(inputs):
            said.setdefault(doubt, []).append(name)
    return [_problem(pipeline, doubt, names) for doubt, names in said.items()]


def _problem(pipeline: Pipeline, doubt: Doubt, jobs: list[str]) -> Problem:
    origins = pipeline.made.origins
    names = dict.fromkeys(origins[job].short if job in origins else job for job in jobs)
    intro = f"job{'s' if len(names) > 1 else ''} {listed(names, 'and')}"
    place = pipeline.places.place(_written(pipeline, field_path(jobs[0], doubt.field)))
    return Problem(*place, f"{intro}, {doubt.field}: {doubt.what}", doubt.fix)


def _written(pipeline: Pipeline, path: Path) -> Path:
    """The path in the group of a job that a group made."""
    origin = pipeline.made.origins.get(str(path[1]))
    return path if origin is None else ("jobs", origin.group, "jobs", origin.member, *path[2:])


def as_warning(problem: Problem) -> str:
    """A doubt as people read it, told apart from a mistake."""
    head = f"{problem.where}: warning: {problem.what}"
    return f"{head}\n  fix: {problem.fix}" if problem.fix else head
