"""What a submission would do: per job reuse, resume or run, and why. Pure reading."""

from pathlib import Path

from jobs.base.registry import kind_of
from jobs.storage.store import Store
from orchestrator.graph import Graph, identities
from orchestrator.pipeline import Pipeline
from orchestrator.plan import Action, PlannedJob, RunPlan


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
        spec = pipeline.specs[name]
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
    tracking = absolute_uri(pipeline.tracking) if pipeline.tracking else default_tracking(store)
    return RunPlan(name=pipeline.name, storage=store.uri, tracking=tracking, jobs=tuple(planned))


def default_tracking(store: Store) -> str | None:
    """An SQLite file in a local storage; None (off) for a remote one."""
    return None if "://" in store.uri else f"sqlite:///{store.uri}/mlflow.db"


def absolute_uri(tracking: str) -> str:
    """A tracking URI that means the same in every folder: workers have one of their own."""
    scheme = "sqlite:///"
    path = tracking.removeprefix(scheme)
    return tracking if path == tracking else f"{scheme}{Path(path).absolute()}"


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
