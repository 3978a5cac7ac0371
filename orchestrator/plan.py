"""A plan as data: the jobs of a submission, their addresses, and what is to be done for each."""

from collections.abc import Mapping
from typing import Any, Literal

from slimctl.models.spec import Spec

Action = Literal["reuse", "resume", "run", "blocked"]


class PlannedJob(Spec):
    """A job of a submission with its address in the store."""

    name: str
    kind: str
    fields: dict[str, Any]
    """Spec as plain data, seed filled in."""
    key: str
    artifact: str
    """Artifact id of the result."""
    inputs: dict[str, str]
    """Job name -> artifact id of every input."""
    fingerprint: dict[str, str]
    """Content of outside files."""
    action: Action
    reason: str
    """Why, in a few words."""
    flop: float = 0.0
    """Floating-point operations that it takes; 0 = little, or not known."""


class RunPlan(Spec):
    """A resolved pipeline and what its submission would do."""

    name: str
    storage: str
    tracking: str | None
    """MLflow URI; None = tracking is off."""
    jobs: tuple[PlannedJob, ...]
    """In an order in which inputs come first."""

    @property
    def idle(self) -> bool:
        """Whether every result is there already."""
        return all(job.action == "reuse" for job in self.jobs)


def twins(plan: RunPlan) -> Mapping[str, str]:
    """Jobs that ask for the result of an earlier one -> that job. Only the earlier one runs."""
    makers: dict[str, str] = {}
    first = {job.name: makers.setdefault(job.artifact, job.name) for job in plan.jobs}
    return {name: maker for name, maker in first.items() if maker != name}


def as_event(plan: RunPlan) -> Mapping[str, Any]:
    """The details of a run_started event."""
    jobs = {
        job.name: {
            "kind": job.kind,
            "key": job.key,
            "artifact": job.artifact,
            "after": sorted(job.inputs),
        }
        for job in plan.jobs
    }
    return {"name": plan.name, "jobs": jobs, "tracking": plan.tracking}
