"""What a submission would do, as data: per job reuse, resume or run, and why. Pure reading."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from pydantic import Field

from slimctl.jobs.base.artifacts import SweepReport
from slimctl.jobs.base.cluster import Cluster, Resources
from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.base.keys import split_id
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.search.spec import Dimension, SearchSpec
from slimctl.jobs.storage.blobs import check_secretless
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline.diagnostics import Mistake, Problem, warnings
from slimctl.orchestrator.pipeline.groups import Origin, trial_iteration
from slimctl.orchestrator.pipeline.link import expectations
from slimctl.orchestrator.pipeline.operations import Budget, Notify, Price
from slimctl.orchestrator.pipeline.pipeline import Pipeline, resolve
from slimctl.orchestrator.pipeline.references import named_outside
from slimctl.orchestrator.planning.estimate import Estimate, estimate, is_open
from slimctl.orchestrator.planning.graph import Graph, identities, preflight
from slimctl.orchestrator.planning.memory import MemoryPlan, memory_plan

SQLITE = "sqlite:///"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
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
    search: str = ""
    """The search whose trial it belongs to; "" = none."""
    values: dict[str, Any] = {}  # noqa: RUF012  (pydantic copies defaults)
    """Values of that trial."""
    named: dict[str, tuple[str, ...]] = Field(default={}, exclude=True)
    """Of a search: what its trials name besides each other -> the jobs that this means."""


class RunPlan(Spec):
    """A resolved pipeline and what its submission would do."""

    name: str
    storage: str
    tracking: str | None
    """MLflow URI; None = tracking is off."""
    experiment: str = ""
    """MLflow experiment; "" = called after the pipeline."""
    jobs: tuple[PlannedJob, ...]
    """In an order in which inputs come first."""
    resources: Resources | None = None
    """GPUs that the cluster is going to have; None = those that it has."""
    price: Price | None = None
    """Of an hour of a device; None = costs are not counted."""
    budget: Budget | None = None
    """What the run may take; None = as much as it needs."""
    notify: Notify | None = None
    """Channels that hear of the run; None = none."""

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
    jobs = {job.name: as_status(job) for job in plan.jobs}
    return {"name": plan.name, "jobs": jobs, "tracking": plan.tracking}


def as_status(job: PlannedJob) -> dict[str, Any]:
    """What the status of a run keeps of a job."""
    of = {"search": job.search} if job.search else {}
    after = sorted(job.inputs)
    return {"kind": job.kind, "key": job.key, "artifact": job.artifact, "after": after, **of}


@dataclass(frozen=True)
class Forecast:
    """What a submission would do and cost."""

    plan: RunPlan
    cost: Estimate
    warnings: Sequence[Problem]
    """What would say little although nothing is wrong, such as a FID of few samples."""
    missing: Sequence[Mistake]
    """Files that a draft names and that are not there, whose jobs could not be looked at, and jobs
    that no device holds."""
    memory: MemoryPlan = field(default_factory=MemoryPlan)
    """What each job takes of each device."""

    @property
    def jobs(self) -> Sequence[PlannedJob]:
        """The jobs, inputs first: `action` is reuse, resume, run or blocked, `reason` says why."""
        return self.plan.jobs


def check(pipeline: Pipeline) -> list[Problem]:
    """Looks for mistakes in a pipeline and in what it reads; starts nothing.

    Returns:
        Warnings: what would say little although nothing is wrong, such as a FID of few samples.

    Raises:
        PipelineProblems: all mistakes at once.
    """
    resolved = resolve(pipeline)
    graph = Graph.of(resolved)
    return warnings(resolved, graph, preflight(resolved, graph))


def plan(
    pipeline: Pipeline,
    *,
    tflops: float | None = None,
    cluster: Cluster | None = None,
    device_bytes: int | None = None,
) -> Forecast:
    """What `submit` would do with each job, and what it would cost; starts nothing.

    Args:
        pipeline: what to run; its storage decides what is there already.
        tflops: rate of one GPU in 1e12 operations per second, for its hours; None = not known.
        cluster: devices that it would run on, for the memory of each; None = one CPU.
        device_bytes: memory of the smallest of its GPUs; None = not known.

    Raises:
        PipelineProblems: all mistakes at once.
    """
    resolved = resolve(pipeline)
    graph, store = Graph.of(resolved), Store(resolved.storage)
    facts, missing = expectations(resolved.specs, graph.edges, graph.order)
    if missing:
        blocked = {resolved.made.owner(str(one.path[1])) for one in missing}
        made = draft_plan(resolved, graph, blocked, store)
    else:
        made = make_plan(resolved, graph, store)
        unread = [resolved.made.owner(name) for name, known in facts.items() if is_open(known)]
        facts = preflight(resolved, graph, unread) if unread else facts
    cost = estimate(resolved, graph, facts, made, tflops)
    memory = memory_plan(resolved, graph, facts, cluster or Cluster(cpus=1), device_bytes)
    said = [*warnings(resolved, graph, facts), *memory.warnings(resolved)]
    return Forecast(made, cost, said, [*missing, *memory.mistakes(resolved)], memory)


def make_plan(pipeline: Pipeline, graph: Graph, store: Store) -> RunPlan:
    """Compares a resolved pipeline with what the store has."""
    ids = identities(pipeline, graph)
    planned: list[PlannedJob] = []
    actions: dict[str, Action] = {}
    for name, identity in ids.items():
        spec = pipeline.specs[name]
        action, reason = _decide(store, identity.id, [actions[i] for i in graph.inputs(name)])
        actions[name] = action
        named = {}
        if isinstance(spec, SearchSpec):
            named = named_outside(name, spec, pipeline.made)
            if action == "reuse":
                planned += trials_made(store, name, spec.space, identity.id)
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
                named=named,
            )
        )
    if pipeline.tracking:
        check_secretless(pipeline.tracking, "tracking")
    elif os.environ.get(TRACKING_VARIABLE):
        check_secretless(os.environ[TRACKING_VARIABLE], TRACKING_VARIABLE)
    stated = pipeline.tracking or os.environ.get(TRACKING_VARIABLE)
    tracking = absolute_uri(stated) if stated else default_tracking(store)
    return RunPlan(
        name=pipeline.name,
        storage=store.uri,
        tracking=tracking,
        experiment=os.environ.get(EXPERIMENT_VARIABLE) or pipeline.name,
        jobs=tuple(planned),
        resources=pipeline.resources,
        price=pipeline.price,
        budget=pipeline.budget,
        notify=pipeline.notify,
    )


def trials_made(
    store: Store, search: str, space: Mapping[str, Dimension], artifact: str
) -> list[PlannedJob]:
    """What the trials of a finished search made, as jobs of a run that has its report."""
    report, found = store.load_any(artifact), {}
    for trial in report.trials if isinstance(report, SweepReport) else ():
        for member, made in trial.artifacts.items():
            name = Origin(search, trial_iteration(trial.values, space).name, member).name
            try:
                manifest = store.manifest(made)
            except DamagedArtifact:
                continue
            if manifest is not None:
                found[name] = PlannedJob(
                    name=name,
                    kind=manifest.kind,
                    fields=manifest.spec,
                    key=split_id(made)[1],
                    artifact=made,
                    inputs={},
                    fingerprint={},
                    action="reuse",
                    reason="the store has it",
                    search=search,
                    values=trial.values,
                )
    return list(found.values())


def draft_plan(pipeline: Pipeline, graph: Graph, missing: Collection[str], store: Store) -> RunPlan:
    """The plan of a pipeline whose files are not all there: nothing has an address yet."""
    jobs: list[PlannedJob] = []
    blocked = set(missing)
    for name in (one for one in graph.order if pipeline.made.owner(one) == one):
        inputs = graph.inputs(name)
        action: Action = "blocked" if name in blocked or blocked & {*inputs} else "run"
        if action == "blocked":
            blocked.add(name)
        reason = "a file is missing" if name in missing else "after its inputs" if inputs else ""
        spec = pipeline.specs[name]
        jobs.append(
            PlannedJob(
                name=name,
                kind=kind_of(spec),
                fields=spec.model_dump(mode="json"),
                key="",
                artifact="",
                inputs=dict.fromkeys(inputs, ""),
                fingerprint={},
                action=action,
                reason=reason,
            )
        )
    return RunPlan(
        name=pipeline.name,
        storage=store.uri,
        tracking=None,
        jobs=tuple(jobs),
        resources=pipeline.resources,
        price=pipeline.price,
        budget=pipeline.budget,
    )


def default_tracking(store: Store) -> str | None:
    """An SQLite file in a local storage; None (off) for a remote one."""
    return None if "://" in store.uri else sqlite_uri(Path(store.uri, "mlflow.db"))


def absolute_uri(tracking: str) -> str:
    """A tracking URI that means the same in every folder: workers have one of their own."""
    path, mark, query = tracking.removeprefix(SQLITE).partition("?")
    if not tracking.startswith(SQLITE) or path.startswith(("/", ":memory:", "file:")):
        return tracking
    return f"{sqlite_uri(Path(unquote(path)).absolute())}{mark}{query}"


def sqlite_uri(file: Path) -> str:
    """The tracking URI of a file; in it `%20` would mean a space and `?` begin the options.

    Where something is to be quoted the slashes are, too: MLflow makes the folder that it reads from
    the URI as it stands, which would be another one.
    """
    path = str(file)
    return f"{SQLITE}{quote(path, safe='') if {'%', '?'} & {*path} else path}"


def sqlite_file(tracking: str | None) -> Path | None:
    """The file that a tracking URI names, if it is an SQLite one: there, `%20` is a space."""
    if tracking is None or not tracking.startswith(SQLITE):
        return None
    return Path(unquote(tracking.removeprefix(SQLITE).partition("?")[0]))


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
