"""Submitting a pipeline: check, plan, and if anything is left to do, run it on Ray."""

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, SlimError, UserError
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.diagnostics import Problem, warnings
from slimctl.orchestrator.pipeline.pipeline import Pipeline, resolve, to_yaml
from slimctl.orchestrator.planning.estimate import with_work
from slimctl.orchestrator.planning.graph import Graph, preflight
from slimctl.orchestrator.planning.memory import MemoryPlan, device_limit, memory_plan
from slimctl.orchestrator.planning.plan import RunPlan, as_event, make_plan
from slimctl.orchestrator.running.cluster import connect, devices_here, gpu_bytes_here
from slimctl.orchestrator.running.launcher import NAMESPACE
from slimctl.orchestrator.running.notice import LEAVE_S, is_notice
from slimctl.orchestrator.running.preconditions import (
    check_devices,
    check_preconditions,
    check_shared,
)
from slimctl.orchestrator.running.supervisor import RunRequest, Supervisor, supervisor_name
from slimctl.orchestrator.runs.events import Event, EventLog
from slimctl.orchestrator.runs.runs import (
    new_run_id,
    read_status,
    run_ids,
    run_lease,
    save_pipeline,
)
from slimctl.orchestrator.runs.status import RunStatus, fold

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
    pipeline: Pipeline | None = None
    """What was submitted; None for a run that was resumed by its name."""

    def __getitem__(self, job: str | JobSpec) -> Any:
        """The result of a job: numbers of an evaluation, size of a generator, ...

        Raises:
            KeyError: the pipeline has no such job.
            JobFailed: it has no result: it failed, was blocked or has not ended.
        """
        name = self.pipeline.name_of(job) if self.pipeline else str(job)
        state, store = self.status.jobs[name], Store(self.plan.storage)
        if store.state(state.artifact) == "absent":
            said = f": {state.message}" if state.message else ""
            what = f"job '{name}' has no result, it is {state.state}{said}"
            fix = state.fix or f"slimctl logs {self.run}/{name}"
            raise JobFailed(f"run {self.run}", what, fix)
        return store.load_any(state.artifact)


def submit(
    pipeline: Pipeline,
    *,
    address: str | None = None,
    detach: bool = False,
    listener: Listener | None = None,
    on_plan: Callable[[RunPlan, str], None] | None = None,
    on_warnings: Callable[[Sequence[Problem]], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Submission:
    """Runs a pipeline to its end; what the store has is not made again.

    Args:
        pipeline: what to run.
        address: None = a private Ray on this machine; `auto` or `host:port` = a running cluster.
        detach: return as soon as the run is on record; needs a cluster.
        listener: called with every event of the run.
        on_plan: called once with the plan and the run id, before anything starts.
        on_warnings: called after that with the warnings about the jobs that are going to run.
        on_wait: called before a silence with what it is for, such as that Ray starts.

    Raises:
        UserError: the pipeline, its input, the storage or the address cannot be used.
    """
    check_detach(address, detach=detach)
    resolved = resolve(pipeline)
    graph = Graph.of(resolved)
    store = Store(resolved.storage)
    made = make_plan(resolved, graph, store)
    if made.idle:
        status = _record_idle(store, made, to_yaml(resolved))
        if on_plan:
            on_plan(made, status.run)
        return Submission(status.run, status, made, started_ray=False, pipeline=pipeline)
    on_wait = on_wait or say_nothing
    check_ready(store, address, on_wait)
    due = [job.name for job in made.jobs if job.action != "reuse"]
    facts = preflight(resolved, graph, due)
    memory = _memory(resolved, graph, facts, address)
    resolved.tell(memory.mistakes(resolved))
    run = new_run_id(made.name)
    save_pipeline(store.blobs, run, to_yaml(resolved))
    if on_plan:
        on_plan(made, run)
    if on_warnings:
        said = warnings(resolved, graph, facts, frozenset(due))
        on_warnings([*said, *memory.warnings(resolved)])
    made = with_work(made, resolved, graph, facts)
    ended = start(run, made, address=address, detach=detach, listener=listener, on_wait=on_wait)
    return replace(ended, pipeline=pipeline)


def _memory(
    pipeline: Pipeline, graph: Graph, facts: Mapping[str, Facts], address: str | None
) -> MemoryPlan:
    """What jobs take of each device; nothing where no memory of a GPU is known."""
    limit = device_limit(pipeline.resources, gpu_bytes_here() if address is None else None)
    if limit is None:
        return MemoryPlan()
    cluster = devices_here().expecting(pipeline.resources)
    return memory_plan(pipeline, graph, facts, cluster, limit)


def say_nothing(text: str) -> None:
    """Nobody asked to hear what is waited for."""


def check_ready(store: Store, address: str | None, on_wait: Callable[[str], None]) -> None:
    """Looks at what a run needs before it is on record; tells what may go wrong later.

    Raises:
        UserError: the storage cannot be written, or a private Ray cannot start here.
    """
    store.check_writable()
    if address is None:
        for warning in check_preconditions():
            on_wait(f"warning: {warning}")


def check_detach(address: str | None, *, detach: bool) -> None:
    """Refuses to leave a run on a Ray that ends with this program.

    Raises:
        UserError: there is no address.
    """
    if detach and address is None:
        raise UserError(
            "--detach",
            "needs a running cluster: a private Ray ends with this program",
            "add --address auto or host:port (`ray start --head` starts one)",
        )


def start(
    run: str,
    plan: RunPlan,
    *,
    address: str | None,
    detach: bool,
    listener: Listener | None,
    on_wait: Callable[[str], None],
    resumption: str = "",
) -> Submission:
    """Starts the supervisor of a run that is on record, and follows it unless asked to detach."""
    local = address is None
    store = Store(plan.storage)
    if local:
        on_wait("starting Ray on this machine, which takes up to half a minute")
    else:
        on_wait(f"joining Ray at {address}")
    with connect(address) as cluster:
        if not local:
            check_shared(store)
        for warning in check_devices(plan, cluster, grows=not local):
            on_wait(f"warning: {warning}")
        request = RunRequest(run, plan, cluster, resumption, detached=not local)
        supervisor = None
        try:
            supervisor = _supervise(request)
            follow = accept if detach else follow_run
            status = follow(supervisor, request, listener)
        except KeyboardInterrupt as interrupt:
            if local:  # the private Ray ends with us, so the run is not alive any more
                if supervisor is not None and is_notice(interrupt):
                    _take_away(supervisor, signal.Signals(interrupt.args[0]).name, on_wait)
                run_lease(store.blobs, run).end()
            raise
    return Submission(run, status, plan, started_ray=True)


def _take_away(supervisor: Any, why: str, on_wait: Callable[[str], None]) -> None:
    """Has the jobs of a run leave checkpoints before its Ray ends, if they can in time."""
    import ray

    on_wait(f"{why}: jobs write checkpoints, at most {LEAVE_S:.0f} s")
    until = time.monotonic() + LEAVE_S
    with contextlib.suppress(ray.exceptions.RayError):  # the signal may have come to Ray, too
        ray.get(supervisor.take_away.remote(f"{why} came"), timeout=LEAVE_S)
        while time.monotonic() < until:
            if ray.get(supervisor.is_over.remote(), timeout=LEAVE_S):
                return
            time.sleep(POLL_S)


def _record_idle(store: Store, plan: RunPlan, pipeline: str) -> RunStatus:
    """The recent run that made or reused just this, else a new record."""
    wanted = {job.name: job.artifact for job in plan.jobs if not job.search}
    for run in reversed(run_ids(store.blobs)[-20:]):
        status = read_status(store.blobs, run)
        made = {name: job.artifact for name, job in status.jobs.items() if not job.search}
        if status.state == "done" and wanted == made:
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


def _supervise(request: RunRequest) -> Any:
    """The supervisor of a run: the one that is there, or a new one. It comes back if it dies."""
    import ray

    lifetime = "detached" if request.detached else None
    return (
        ray.remote(Supervisor)
        .options(
            name=supervisor_name(request.run),
            namespace=NAMESPACE,
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=32,
            max_restarts=-1,
            lifetime=lifetime,
        )
        .remote(request)
    )


def accept(supervisor: Any, request: RunRequest, listener: Listener | None) -> RunStatus:
    """Waits until a run is on record, so that it survives whatever dies next."""
    import ray

    del listener
    ray.get(supervisor.accepted.remote())
    return cast("RunStatus", ray.get(supervisor.status.remote()))


def follow_run(supervisor: Any, request: RunRequest, listener: Listener | None) -> RunStatus:
    """Passes the events of a run on until it is over."""
    import ray

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
            return _last_words(request, error)
        seen += len(fresh)
        if listener:
            for event in fresh:
                listener(event)
        if not over:
            time.sleep(POLL_S)
    ray.kill(supervisor)
    return status


def _last_words(request: RunRequest, error: Exception) -> RunStatus:
    """How a run ended whose supervisor left before it was asked.

    Raises:
        SlimError: it did not end.
    """
    stored = read_status(Store(request.plan.storage).blobs, request.run)
    if stored.ended is not None:
        return stored
    raise SlimError(
        f"run {request.run}",
        f"its supervisor died: {error}",
        f"slimctl resume {request.run}: finished work is kept",
    ) from error


def check_result(submission: Submission) -> None:
    """Raises the error that a failed run should end the program with.

    Raises:
        UserError: every failed job failed because of the user's input.
        DamagedArtifact: every failed job met a damaged file.
        JobFailed: a job failed otherwise, or the run was cancelled.
        SlimError: the run failed without a failed job, which is our bug.
    """
    run, status = f"run {submission.run}", submission.status
    needed = {name: job for name, job in status.jobs.items() if not job.search}
    failed = {name: job for name, job in needed.items() if job.state == "failed"}
    if status.ended is None:
        fix = f"slimctl logs {submission.run} -f"
        raise JobFailed(run, "was taken over by another supervisor", fix)
    if not failed and status.state == "cancelled":
        raise JobFailed(
            run, "was cancelled", f"slimctl resume {submission.run}: finished work is kept"
        )
    if not failed and status.state == "stopped":
        fix = (
            f"slimctl resume {submission.run} goes on from the checkpoints after a timeout; after "
            "its budget submit the file with a larger one: finished work is kept"
        )
        raise JobFailed(run, f"was stopped: {status.message}", fix)
    if not failed and status.state != "done":
        raise SlimError(run, f"ended as {status.state}: {status.message or 'it does not say why'}")
    if not failed:
        return
    classes = {job.failure for job in failed.values()}
    only = {"UserError": UserError, "DamagedArtifact": DamagedArtifact}
    kind = only.get(classes.pop(), JobFailed) if len(classes) == 1 else JobFailed
    blocked = sum(job.state == "blocked" for job in needed.values())
    what = "; ".join(f"job '{name}' failed: {job.message}" for name, job in failed.items())
    fixes = [job.fix for job in failed.values() if job.fix]
    tail = f" ({blocked} job(s) that need it did not run)" if blocked else ""
    raise kind(run, what + tail, "; ".join(fixes))
