"""MLflow: the run as a parent, each job as a child, written by one actor from the run's events.

It lives beside the supervisor, so a slow or dead tracking server delays nothing. The event log is
the truth: after a failure, or a restart, what the server has not had is read from there. What could
not be written is said at the end.

A registered model is named after the pipeline; a version of it is a pointer to an artifact of the
store, not a copy. `champion` and `smallest` are aliases of versions.
"""

import contextlib
import fcntl
import json
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slimctl.jobs.base.artifacts import (
    Dataset,
    Handle,
    QualityReport,
    StepPolicy,
    StepReport,
    SweepReport,
)
from slimctl.jobs.base.errors import DamagedArtifact, SlimError
from slimctl.jobs.base.keys import canonical_json
from slimctl.jobs.storage.store import Store
from slimctl.models.metrics import metrics as declared_metrics
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan, sqlite_file
from slimctl.orchestrator.results.collect import quality_reports
from slimctl.orchestrator.results.pool import beats, fid_protocol
from slimctl.orchestrator.results.report import gather, render
from slimctl.orchestrator.runs.events import Event, read_events
from slimctl.orchestrator.runs.runs import read_pipeline, read_status, run_lease

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "slimctl.run"
JOB_TAG = "slimctl.job"
EVENTS_TAG = "slimctl.events"
PARENT_TAG = "mlflow.parentRunId"
TRAINING_PAGES = {"mlflow.experimentKind": "custom_model_development"}
"""Has `mlflow ui` open the experiment in its pages for training, not for language models."""
MAX_PARAM = 500
RETRY_S = 15.0
GRACE_S = 40.0
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A dead server is tried again here, so MLflow need not insist for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
NUMBERS = (
    "samples", "accuracy", "count", "best_return", "policy_return", "best_fixed_return",
    "policy_cost", "policy_bad_share", "episodes", "decisions",
)  # fmt: skip
"""Numbers of results that are tracked beside the declared metrics."""
ARTIFACT_TAG = "slimctl.artifact"
MLFLOW_STATUS = {"done": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


class Tracker:
    """Writes one run to MLflow, by its id and its plan as plain data."""

    def __init__(self, run: str, plan: Mapping[str, Any]) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        self._run = run
        self._plan = RunPlan.model_validate(plan)
        self._jobs = {job.name: job for job in self._plan.jobs}
        self._store = Store(self._plan.storage)
        self._queue: queue.Queue[Sequence[Event] | None] = queue.Queue()
        self._problem = ""
        self._ending = threading.Event()
        self._children: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def push(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Takes events to write; the event log in the store has them already."""
        if not self._problem:
            self._queue.put([Event.model_validate(event) for event in events])

    def finish(self, grace_s: float = GRACE_S) -> str:
        """Waits until everything is written; returns what went wrong, or ""."""
        self._ending.set()
        self._queue.put(None)
        self._thread.join(grace_s)
        if self._thread.is_alive():
            return self._problem or f"nothing was heard from the server for {grace_s:g} s"
        return self._problem

    def _work(self) -> None:
        while True:
            last_try = self._ending.is_set()
            try:
                self._serve()
            except Exception as error:  # noqa: BLE001  (tracking must never stop a run)
                self._problem = f"{type(error).__name__}: {error}".splitlines()[0]
                if last_try:
                    return
                self._ending.wait(RETRY_S)
            else:
                return

    def _serve(self) -> None:
        """Writes what the store has, then what is pushed, until `finish`."""
        with _migration_lock(self._plan):
            self._open()
        self._problem = ""
        self._write(list(read_events(self._store.blobs, self._run)))
        while (events := self._queue.get()) is not None:
            self._write(events)

    def _open(self) -> None:
        from mlflow import MlflowClient

        uri = self._plan.tracking
        self._client = MlflowClient(tracking_uri=uri)
        name = self._plan.experiment or self._plan.name
        found = self._client.get_experiment_by_name(name)
        if found is None:
            local = "://" not in self._store.uri
            place = Path(self._store.uri, "mlartifacts").as_uri() if local else None
            self._experiment = self._client.create_experiment(name, place, tags=TRAINING_PAGES)
        else:
            self._experiment = found.experiment_id
        self._end_dead_runs()
        self._parent, self._seen = self._open_parent()

    def _open_parent(self) -> tuple[str, int]:
        """The parent run and the number of events written, also after a restart."""
        mine = self._client.search_runs(
            [self._experiment], f"tags.`{RUN_TAG}` = '{self._run}'", max_results=10_000
        )
        for found in mine:
            if JOB_TAG in found.data.tags:
                self._children[found.data.tags[JOB_TAG]] = found.info.run_id
        parents = [found for found in mine if JOB_TAG not in found.data.tags]
        if parents:
            return parents[0].info.run_id, int(parents[0].data.tags.get(EVENTS_TAG, 0))
        tags = {RUN_TAG: self._run}
        first = next(iter(read_events(self._store.blobs, self._run)), None)
        start = None if first is None else _milliseconds(first)
        created = self._client.create_run(
            self._experiment, start_time=start, tags=tags, run_name=self._run
        )
        return created.info.run_id, 0

    def _end_dead_runs(self) -> None:
        """Runs whose supervisor died would be RUNNING for ever."""
        for found in self._client.search_runs(
            [self._experiment], "attributes.status = 'RUNNING'", max_results=1000
        ):
            run = found.data.tags.get(RUN_TAG, "")
            if run and run != self._run and not run_lease(self._store.blobs, run).is_alive():
                self._client.set_terminated(found.info.run_id, "KILLED")

    def _write(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.name == "jobs_added":
                added = map(PlannedJob.model_validate, event.details["jobs"].values())
                self._jobs |= {job.name: job for job in added}
        fresh = [event for event in events if event.number >= self._seen]
        self._write_curves(fresh)  # first: how a job ended is said when all else is written
        for event in fresh:
            if event.job:
                self._job_event(event)
            elif event.name == "run_ended":
                state = MLFLOW_STATUS.get(event.details["state"], "KILLED")
                self._summarise(event)
                if state == "FINISHED":
                    self._register()
                self._end(self._parent, state, event)
        if fresh:
            self._seen = fresh[-1].number + 1
            self._client.set_tag(self._parent, EVENTS_TAG, self._seen)

    def _write_curves(self, events: Sequence[Event]) -> None:
        curves: dict[str, list[Any]] = {}
        for event in events:
            if event.name == "progress":
                self._child(event)
                curves.setdefault(event.job, []).extend(_points(event))
            elif event.name == "job_started":
                self._child(event)
        for job, points in curves.items():
            child = self._children[job]
            for first in range(0, len(points), 1000):
                self._client.log_batch(child, metrics=points[first : first + 1000])

    def _summarise(self, event: Event) -> None:
        """Puts on the run itself what it reached and took, so that runs compare by themselves."""
        status = read_status(self._store.blobs, self._run)
        reports = quality_reports(self._store, status)
        hours = {f"{device.lower()}_hours": n for device, n in status.hours(event.time).items()}
        if self._plan.price:
            hours["cost"] = self._plan.price.of(status.hours(event.time))
        metrics, tags = summary(reports)
        self._log_numbers(self._parent, {**metrics, **hours})
        for name, value in tags.items():
            self._client.set_tag(self._parent, name, value)
        with contextlib.suppress(SlimError, OSError):
            text = read_pipeline(self._store.blobs, self._run)
            self._client.log_text(self._parent, text, "pipeline.yaml")
            page = gather(self._store, self._run, trajectories=False)
            self._client.log_text(self._parent, render(page), "report.html")

    def _log_dataset(self, job: PlannedJob, data: Dataset) -> None:
        """Names a data set among the inputs of the run."""
        from mlflow.entities import Dataset as Named
        from mlflow.entities import DatasetInput

        source = {"uri": str(job.fields.get("source", job.kind))}
        profile = {"images": data.count, **data.image.model_dump()}
        named = Named(
            name=job.name,
            digest=job.key[:36],
            source_type="slimctl",
            source=json.dumps(source),
            profile=json.dumps(profile),
        )
        self._client.log_inputs(self._parent, [DatasetInput(named)])

    def _log_numbers(self, run: str, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        made = [Metric(name, float(value), now, 0) for name, value in numbers.items()]
        self._client.log_batch(run, metrics=made)

    def _register(self) -> None:
        """Registers what the run would have a user take; a server without models is left alone."""
        from mlflow.exceptions import MlflowException

        reports = quality_reports(self._store, read_status(self._store.blobs, self._run))
        try:
            register(self._client, self._plan.name, self._store.uri, reports, self._parent)
        except MlflowException as error:
            self._client.set_tag(self._parent, "slimctl.models", str(error)[:500])

    def _job_event(self, event: Event) -> None:
        if event.name == "warning":
            self._client.set_tag(self._child(event), "slimctl.warning", event.details["message"])
        if event.name in ("job_done", "job_reused"):
            child = self._child(event)
            self._client.set_tag(child, "slimctl.state", event.name.removeprefix("job_"))
            self._log_result(child, self._jobs[event.job])
            self._end(child, "FINISHED", event)
        elif event.name == "job_failed":
            child = self._child(event)
            self._client.set_tag(child, "slimctl.error", event.details["what"][:5000])
            self._end(child, "FAILED", event)
        elif event.name in ("job_cancelled", "job_stopped") and event.job in self._children:
            self._end(self._children[event.job], "KILLED", event)

    def _end(self, run: str, state: str, event: Event) -> None:
        self._client.set_terminated(run, state, end_time=_milliseconds(event))

    def _child(self, event: Event, name: str = "") -> str:
        """The child run of a job, the event's if none is named, made when first heard of."""
        name = name or event.job
        if name in self._children:
            return self._children[name]
        from mlflow.entities import Param

        job = self._jobs[name]
        tags = {
            RUN_TAG: self._run,
            JOB_TAG: name,
            PARENT_TAG: self._child(event, job.search) if job.search else self._parent,
            "slimctl.kind": job.kind,
            "slimctl.artifact": job.artifact,
        }
        created = self._client.create_run(
            self._experiment, start_time=_milliseconds(event), tags=tags, run_name=name
        )
        self._children[name] = created.info.run_id
        fields = dict([*flatten(job.values), *flatten(job.fields)]).items()
        params = [Param(key, value[:MAX_PARAM]) for key, value in fields]
        self._client.log_batch(created.info.run_id, params=[Param("kind", job.kind), *params][:100])
        return self._children[name]

    def _log_result(self, child: str, job: PlannedJob) -> None:
        """Measured numbers of a finished job, and its pictures."""
        try:
            manifest = self._store.manifest(job.artifact)
            handle = self._store.load_any(job.artifact)
        except DamagedArtifact:
            return
        numbers = {name: value for name, value in handle if isinstance(value, (int, float))}
        if manifest is not None:
            numbers |= {"wall_s": manifest.wall_s, "device_s": manifest.device_s}
        declared = {field for metric in declared_metrics().values() for field in metric.fields}
        kept = {*declared, *NUMBERS, "wall_s", "device_s"}
        self._log_numbers(child, {k: v for k, v in numbers.items() if k in kept})
        if isinstance(handle, Dataset):
            self._log_dataset(job, handle)
        if isinstance(handle, SweepReport) and handle.chosen is not None:
            values = handle.trials[handle.chosen].values
            for name, run in self._children.items():
                if (one := self._jobs[name]).search == job.name and one.values == values:
                    self._client.set_tag(run, "slimctl.chosen", "true")
        for name in pictures_of(handle):
            with contextlib.suppress(DamagedArtifact):
                self._client.log_artifact(child, str(self._store.file(handle, name)))


def pictures_of(handle: Handle) -> tuple[str, ...]:
    """Files of a result that are pictures to look at."""
    if isinstance(handle, QualityReport):
        return (handle.sheet,)
    if isinstance(handle, StepPolicy):
        return (handle.curves,)
    return handle.pictures if isinstance(handle, StepReport) else ()


def _points(event: Event) -> list[Any]:
    """Metric points of a progress event; a curve never takes the name of a final number."""
    from mlflow.entities import Metric

    step, now = event.details["done"], _milliseconds(event)
    values: Mapping[str, float] = event.details.get("metrics", {})
    return [Metric(f"train/{name}", float(value), now, step) for name, value in values.items()]


def _milliseconds(event: Event) -> int:
    """When it happened, as MLflow counts time: a queue or a dead server may delay the writing."""
    return round(event.time * 1000)


def flatten(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested fields as dotted names and texts; those that are null are left out."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", str(value)


@contextlib.contextmanager
def _migration_lock(plan: RunPlan) -> Iterator[None]:
    """One process at a time creates or migrates a fresh SQLite database."""
    file = sqlite_file(plan.tracking)
    if file is None:
        yield
        return
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Measured(NamedTuple):
    """A measured model, of this run or registered earlier."""

    model: str
    """Artifact id."""
    by: str
    """Job that measured it."""
    fid: float
    parameters: int
    nfe: float
    latency_ms: float
    sample_macs: float
    timed_on: str
    """What its latency compares with: device and threads."""
    protocol: str
    """What its FID compares with."""


def measured(reports: Mapping[str, QualityReport]) -> list[Measured]:
    """The models of a run, if all of their FIDs compare; else none."""
    found = [
        Measured(
            report.model, job, report.fid, report.parameters, report.nfe, report.latency_ms,
            report.sample_macs, f"{report.device}, {report.threads} thread(s)",
            canonical_json(dict(fid_protocol(report))),
        )
        for job, report in reports.items()
    ]  # fmt: skip
    return found if len({one.protocol for one in found}) == 1 else []


def aliases(models: Sequence[Measured]) -> dict[str, Measured]:
    """Alias -> model, of models whose FIDs compare.

    Both take the fewest evaluations of those on the front of FID against what a sample costs.
    `champion` has the lowest FID, `smallest` the fewest weights of all that take as few.
    """
    if not models:
        return {}
    together = len({one.timed_on for one in models}) == 1
    points = {one: (one.fid, one.latency_ms if together else one.sample_macs) for one in models}
    front = [one for one in models if not any(beats(points[each], points[one]) for each in models)]
    fewest = min(one.nfe for one in front)
    return {
        "champion": min((one for one in front if one.nfe == fewest), key=lambda one: one.fid),
        "smallest": min(
            (one for one in models if one.nfe == fewest), key=lambda one: (one.parameters, one.fid)
        ),
    }


COMPARED = ("fid", "kid", "parameters", "macs", "nfe", "latency_ms")
"""Numbers of the best and of the smallest student that stand on the run."""


def summary(reports: Mapping[str, QualityReport]) -> tuple[dict[str, float], dict[str, str]]:
    """Metrics and tags of a run: of its best and its smallest student, and against its teacher.

    They are the models that `aliases` names; the teacher is the measured flow of the most
    weights, at its lowest FID. `compression` is weights of the teacher over those of the
    student, `speedup` the same of latencies (of MACs x NFE where these are of unlike devices).
    """
    named = aliases(measured(reports))
    flows = [one for one in reports.values() if one.model_type == "Flow"]
    teacher = min(flows, key=lambda one: (-one.parameters, one.fid), default=None)
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    for alias, prefix in (("champion", "best"), ("smallest", "smallest")):
        if alias not in named:
            continue
        report = reports[named[alias].by]
        tags[f"slimctl.{prefix}"] = named[alias].by
        numbers = {name: report.number(name) for name in COMPARED}
        metrics |= {f"{prefix}_{name}": n for name, n in numbers.items() if n is not None}
        if teacher is not None and teacher.model != report.model:
            metrics[f"{prefix}_compression"] = teacher.parameters / max(1, report.parameters)
            alike = (teacher.device, teacher.threads) == (report.device, report.threads)
            cost = "latency_ms" if alike else "sample_macs"
            ours, theirs = report.number(cost), teacher.number(cost)
            if ours and theirs:
                metrics[f"{prefix}_speedup"] = theirs / ours
    return metrics, tags


def register(
    client: "MlflowClient",
    name: str,
    storage: str,
    reports: Mapping[str, QualityReport],
    run: str,
) -> None:
    """Points the aliases of a pipeline's model at artifacts; an artifact is registered once.

    Versions that are there already take part if their FIDs were taken in the same way, so a worse
    run moves no alias. `name` is the pipeline's, `run` the MLflow run that versions belong to.

    Raises:
        MlflowException: the server keeps no models.
    """
    own = measured(reports)
    if not own:
        return
    known: dict[str, str] = {}
    earlier: list[Measured] = []
    if client.search_registered_models(f"name = '{name}'"):
        for version in client.search_model_versions(f"name = '{name}'"):
            known[version.tags.get(ARTIFACT_TAG, "")] = version.version
            earlier += _registered(version.tags)
    else:
        client.create_registered_model(name, tags={"slimctl.pipeline": name})
    comparable = [one for one in earlier if one.protocol == own[0].protocol]
    for alias, chosen in aliases([*comparable, *own]).items():
        if chosen.model not in known:
            tags = {
                ARTIFACT_TAG: chosen.model,
                "slimctl.measured_by": chosen.by,
                "slimctl.fid_protocol": chosen.protocol,
                "slimctl.storage": storage,
                "fid": repr(chosen.fid),
                "parameters": str(chosen.parameters),
                "nfe": repr(chosen.nfe),
                "latency_ms": repr(chosen.latency_ms),
                "sample_macs": repr(chosen.sample_macs),
                "slimctl.timed_on": chosen.timed_on,
            }
            # Servers refuse paths of machines, so a local store is named in a tag.
            root = storage if "://" in storage else "slimctl://local"
            source = f"{root}/artifacts/{chosen.model}"
            made = client.create_model_version(name, source, run, tags=tags)
            known[chosen.model] = made.version
        client.set_registered_model_alias(name, alias, known[chosen.model])


def _registered(tags: Mapping[str, str]) -> list[Measured]:
    """What a version's tags tell; nothing if somebody else or an earlier version registered it."""
    try:
        return [
            Measured(
                tags[ARTIFACT_TAG], tags["slimctl.measured_by"], float(tags["fid"]),
                int(tags["parameters"]), float(tags["nfe"]), float(tags["latency_ms"]),
                float(tags["sample_macs"]), tags["slimctl.timed_on"], tags["slimctl.fid_protocol"],
            )
        ]  # fmt: skip
    except (KeyError, ValueError):
        return []
