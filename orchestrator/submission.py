"""Submitting a pipeline: check, plan, and if anything is left to do, run it on Ray."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.base.errors import DamagedArtifact, JobFailed, SlimError, UserError
from jobs.storage.store import Store
from orchestrator.cluster import connect
from orchestrator.events import Event, EventLog
from orchestrator.graph import Graph, preflight
from orchestrator.pipeline import Pipeline, resolve, to_yaml
from orchestrator.plan import RunPlan, as_event
from orchestrator.planner import make_plan
from orchestrator.runs import new_run_id, read_status, run_ids, save_pipeline
from orchestrator.status import RunStatus, fold
from orchestrator.supervisor import RunRequest, Supervisor, supervisor_name
from orchestrator.workers import NAMESPACE

POLL_S = 0.25

Listener = Callable[[Event], None]


@dataclass(frozen=True)
class Submission:
    """How a submission ended."""

    run: str
    status: RunStatus
    plan: RunPlan
    started_ray: bool
    """False if the store had everything."""


def submit(
    pipeline: Pipeline,
    *,
    address: str | None = None,
    listener: Listener | None = None,
    on_plan: Callable[[RunPlan, str], None] | None = None,
) -> Submission:
    """Runs a pipeline to its end; what the store has is not made again.

    Args:
        pipeline: what to run.
        address: None = a private Ray on this machine; `auto` or `host:port` = a running cluster.
        listener: called with every event of the run.
        on_plan: called once with the plan and the run id, before anything starts.

    Raises:
        UserError: the pipeline, its input, the storage or the address cannot be used.
    """
    resolved = resolve(pipeline)
    graph = Graph.of(resolved)
    store = Store(resolved.storage)
    plan = make_plan(resolved, graph, store)
    if plan.idle:
        status = _record_idle(store, plan, to_yaml(resolved))
        if on_plan:
            on_plan(plan, status.run)
        return Submission(status.run, status, plan, started_ray=False)
    store.check_writable()
    preflight(resolved, graph, [job.name for job in plan.jobs if job.action != "reuse"])
    run = new_run_id(plan.name)
    save_pipeline(store.blobs, run, to_yaml(resolved))
    if on_plan:
        on_plan(plan, run)
    with connect(address) as cluster:
        local = address is None
        try:
            status = _follow(RunRequest(run, plan, cluster), listener, local=local)
        except KeyboardInterrupt:
            if local:  # the private Ray ends with us, so the run is not alive any more
                store.blobs.delete(f"runs/{run}/lease.json")
            raise
    return Submission(run, status, plan, started_ray=True)


def _record_idle(store: Store, plan: RunPlan, pipeline: str) -> RunStatus:
    """The recent run that made or reused just this, else a new record."""
    wanted = {job.name: job.artifact for job in plan.jobs}
    for run in reversed(run_ids(store.blobs)[-20:]):
        status = read_status(store.blobs, run)
        if status.state == "done" and wanted == {n: j.artifact for n, j in status.jobs.items()}:
            return status
    run = new_run_id(plan.name)
    log = EventLog(store.blobs, run)
    log.add("run_started", **as_event(plan))
    for job in plan.jobs:
        log.add("job_reused", job.name)
    log.add("run_ended", state="done")
    with contextlib.suppress(OSError):  # a read-only storage can still be looked at
        save_pipeline(store.blobs, run, pipeline)
        log.flush()
    return fold(run, log.events)


def _follow(request: RunRequest, listener: Listener | None, *, local: bool) -> RunStatus:
    import ray

    # A supervisor on a cluster outlives this process and comes back after a crash of its own.
    options = {"lifetime": None if local else "detached", "max_restarts": 0 if local else -1}
    supervisor = (
        ray.remote(Supervisor)
        .options(
            name=supervisor_name(request.run),
            namespace=NAMESPACE,
            num_cpus=0,
            max_concurrency=32,
            **options,
        )
        .remote(request)
    )
    seen = 0
    status: RunStatus | None = None
    while status is None:
        try:
            over = ray.get(supervisor.is_over.remote())
            fresh = ray.get(supervisor.events_since.remote(seen))
            # Its own word: a supervisor that came back may have lost events that were seen here.
            status = ray.get(supervisor.status.remote()) if over else None
        except ray.exceptions.ActorUnavailableError:
            time.sleep(POLL_S)
            continue
        except ray.exceptions.RayActorError as error:
            raise SlimError(
                f"run {request.run}",
                f"its supervisor died: {error}",
                "submit again: finished work is kept",
            ) from error
        seen += len(fresh)
        if listener:
            for event in fresh:
                listener(event)
        if not over:
            time.sleep(POLL_S)
    ray.kill(supervisor)
    return status


def check_result(submission: Submission) -> None:
    """Raises the error that a failed run should end the program with.

    Raises:
        UserError: every failed job failed because of the user's input.
        DamagedArtifact: every failed job met a damaged file.
        JobFailed: a job failed otherwise, or the run was cancelled.
        SlimError: the run failed without a failed job, which is our bug.
    """
    run, status = f"run {submission.run}", submission.status
    failed = {n: job for n, job in submission.status.jobs.items() if job.state == "failed"}
    if not failed and status.state == "cancelled":
        raise JobFailed(run, "was cancelled", "submit again: finished work is kept")
    if not failed and status.state != "done":
        raise SlimError(run, f"ended as {status.state}: {status.message or 'it does not say why'}")
    if not failed:
        return
    classes = {job.failure for job in failed.values()}
    only = {"UserError": UserError, "DamagedArtifact": DamagedArtifact}
    kind = only.get(classes.pop(), JobFailed) if len(classes) == 1 else JobFailed
    blocked = sum(job.state == "blocked" for job in submission.status.jobs.values())
    what = "; ".join(f"job '{name}' failed: {job.message}" for name, job in failed.items())
    fixes = [job.fix for job in failed.values() if job.fix]
    tail = f" ({blocked} job(s) that need it did not run)" if blocked else ""
    raise kind(run, what + tail, "; ".join(fixes))
