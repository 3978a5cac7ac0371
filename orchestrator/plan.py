"""What a submission would do: per job reuse, resume, grow or run, and why. Pure reading."""

from collections.abc import Mapping
from typing import Any, Literal

from jobs.base.registry import kind_of
from jobs.storage.store import Store
from models.spec import Spec
from orchestrator.graph import Graph, identities
from orchestrator.pipeline import Pipeline

Action = Literal["reuse", "resume", "run"]


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


def make_plan(pipeline: Pipeline, graph: Graph, store: Store) -> RunPlan:
    """Compares a resolved pipeline with what the store has.

    Args:
        pipeline: with seeds and paths filled in (`resolve`).
        graph: of that pipeline.
        store: where results are.
    """
    ids = identities(pipeline, graph)
    planned: list[PlannedJob] = []
    actions: dict[str, Action] = {}
    for name in graph.order:
        spec = pipeline.jobs[name]
        identity = ids[name]
        action, reason = _decide(store, identity.id, [actions[i] for i in graph.inputs(name)])
        actions[name] = action
        planned.append(
            PlannedJob(
                name=name,
                kind=kind_of(spec),
                fields=spec.model_dump(mode="json"),
                key=identity.key,
                artifact=identity.id,
                inputs={job: ids[job].id for job in graph.inputs(name)},
                fingerprint=dict(identity.fingerprint),
                action=action,
                reason=reason,
            )
        )
    tracking = pipeline.tracking or default_tracking(store)
    return RunPlan(name=pipeline.name, storage=store.uri, tracking=tracking, jobs=tuple(planned))


def default_tracking(store: Store) -> str | None:
    """An SQLite file in a local storage; None (off) for a remote one."""
    return None if "://" in store.uri else f"sqlite:///{store.uri}/mlflow.db"


def _decide(store: Store, artifact: str, inputs: list[Action]) -> tuple[Action, str]:
    state = store.state(artifact)
    if state == "done":
        return "reuse", "the store has it"
    if state == "damaged":
        return "run", "its files in the store are damaged"
    if store.work(artifact).exists("latest.json"):
        return "resume", "from its last checkpoint"
    if any(action != "reuse" for action in inputs):
        return "run", "after its inputs"
    return "run", "not in the store"


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
