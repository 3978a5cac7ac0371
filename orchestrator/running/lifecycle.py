"""Stopping a run and taking it up again, on the same cluster or any other."""

import contextlib
import secrets
import time
from collections.abc import Callable

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.lease import RENEW_EVERY_S
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.placement import free_placement
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline
from slimctl.orchestrator.planning.estimate import with_work
from slimctl.orchestrator.planning.graph import Graph, preflight
from slimctl.orchestrator.planning.plan import RunPlan, make_plan
from slimctl.orchestrator.running.cluster import connect
from slimctl.orchestrator.running.journal import INCOMPLETE
from slimctl.orchestrator.running.launcher import NAMESPACE, job_actor_name
from slimctl.orchestrator.running.limits import GRACE_S
from slimctl.orchestrator.running.submission import (
    Listener,
    Submission,
    check_detach,
    check_ready,
    say_nothing,
    start,
)
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import (
    ask_to_cancel,
    ask_to_stop,
    forget_cancel,
    read_pipeline,
    read_status,
    run_lease,
)
from slimctl.orchestrator.runs.status import OVER, RunStatus

POLL_S = 0.25
CANCEL_S = 30.0
"""How long a living supervisor is given to answer."""
BREATH_S = 3 * RENEW_EVERY_S
"""A supervisor that does not renew its lease for so long is taken for dead."""


def load_run(store: Store, run: str) -> tuple[Pipeline, RunPlan]:
    """The resolved pipeline of a run and what is left to do of it.

    Raises:
        DamagedArtifact: the run's pipeline is not what was written.
        UserError: it cannot be run here, such as where its input files are not.
    """
    text = read_pipeline(store.blobs, run)
    pipeline = parse_pipeline(text, f"runs/{run}/pipeline.yaml", storage=store.uri).pipeline
    return pipeline, make_plan(pipeline, Graph.of(pipeline), store)


def resume(
    store: Store,
    run: str,
    *,
    address: str | None = None,
    detach: bool = False,
    listener: Listener | None = None,
    on_plan: Callable[[RunPlan, str], None] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Submission:
    """Continues a run that was interrupted, cancelled or failed; finished work is kept.

    A run that is alive on the cluster at `address` is followed instead.

    Raises:
        UserError: it is alive somewhere else, or cannot be run here.
        DamagedArtifact: its pipeline is not what was written.
    """
    check_detach(address, detach=detach)
    pipeline, plan = load_run(store, run)
    status = read_status(store.blobs, run)
    if plan.idle and status.state == "done":
        if status.message.startswith(INCOMPLETE):
            _catch_up(run, plan)
        return Submission(run, status, plan, started_ray=False)
    on_wait = on_wait or say_nothing
    check_ready(store, address, on_wait)
    graph = Graph.of(pipeline)
    facts = preflight(pipeline, graph, [job.name for job in plan.jobs if job.action != "reuse"])
    if address is None or not _is_supervised_at(address, run):
        _check_dead(store, run)
        forget_cancel(store.blobs, run)
    if on_plan:
        on_plan(plan, run)
    return start(
        run,
        with_work(plan, pipeline, graph, facts),
        address=address,
        detach=detach,
        listener=listener,
        on_wait=on_wait,
        resumption=secrets.token_hex(8),
    )


def _is_supervised_at(address: str, run: str) -> bool:
    """Whether the supervisor of a run that is not over lives on that cluster."""
    from slimctl.orchestrator.running.supervisor import supervisor_name

    with connect(address):
        import ray

        try:
            actor = ray.get_actor(supervisor_name(run), namespace=NAMESPACE)
            if not ray.get(actor.is_over.remote(), timeout=CANCEL_S):
                return True
            ray.kill(actor)
        except (ValueError, ray.exceptions.RayError):
            return False
    return False


def _check_dead(store: Store, run: str) -> None:
    """Raises UserError if the run's supervisor is alive; waits until it certainly is not."""
    if run_lease(store.blobs, run).is_renewed(BREATH_S):
        raise UserError(
            f"run {run}",
            "is alive already",
            f"look at it with `slimctl logs {run} -f`, or `slimctl cancel {run}` first",
        )


def cancel(store: Store, run: str, *, address: str | None = None) -> RunStatus:
    """Stops a run: frees its devices, keeps its checkpoints, tells MLflow.

    A run without a supervisor may have left actors on the cluster at `address`.

    Raises:
        UserError: it is over already, or its supervisor does not answer.
    """
    status = read_status(store.blobs, run)
    if status.state in OVER:
        raise UserError(f"run {run}", f"is {status.state} already: there is nothing to cancel")
    ask_to_cancel(store.blobs, run)
    deadline = time.monotonic() + CANCEL_S
    while time.monotonic() < deadline and run_lease(store.blobs, run).is_alive():
        status = read_status(store.blobs, run)
        if status.ended is not None:
            return status
        time.sleep(POLL_S)
    status = read_status(store.blobs, run)
    if status.ended is not None:
        return status
    if run_lease(store.blobs, run).is_alive():
        raise UserError(
            f"run {run}", "its supervisor has not answered yet", "it will stop as soon as it does"
        )
    return _bury(store, run, status, address)


def stop(store: Store, run: str) -> RunStatus:
    """Asks a run to stop at a checkpoint of the moment, and waits until it has.

    Raises:
        UserError: it is over already, or nobody supervises it.
    """
    status = read_status(store.blobs, run)
    if status.state in OVER:
        raise UserError(f"run {run}", f"is {status.state} already: there is nothing to stop")
    if not run_lease(store.blobs, run).is_alive():
        raise UserError(f"run {run}", "is not running", f"slimctl resume {run} continues it")
    ask_to_stop(store.blobs, run)
    deadline = time.monotonic() + GRACE_S + CANCEL_S
    while time.monotonic() < deadline and read_status(store.blobs, run).ended is None:
        time.sleep(POLL_S)
    return read_status(store.blobs, run)


def _bury(store: Store, run: str, status: RunStatus, address: str | None) -> RunStatus:
    """Writes the end of a run that has no supervisor, and ends what it left on a cluster."""
    if address is not None:
        _end_actors(status, address)
    log = EventLog(store.blobs, run)
    for name, job in status.jobs.items():
        if job.state in ("waiting", "running", "interrupted"):
            log.add("job_cancelled", name)
    log.add("run_ended", state="cancelled")
    log.flush()
    run_lease(store.blobs, run).end()
    _, plan = load_run(store, run)
    _catch_up(run, plan)
    return read_status(store.blobs, run)


def _catch_up(run: str, plan: RunPlan) -> None:
    """Tells MLflow what it has not heard of a run that is over."""
    if plan.tracking is not None:
        from slimctl.orchestrator.running.tracking import Tracker

        problem = Tracker(run, plan.model_dump(mode="json")).finish()
        if problem:
            fix = f"start the server, then slimctl resume {run}"
            raise UserError(f"tracking {plan.tracking}", problem, fix)


def _end_actors(status: RunStatus, address: str) -> None:
    with connect(address):
        import ray

        for job in status.jobs.values():
            if job.state in ("running", "interrupted"):
                with contextlib.suppress(ValueError, ray.exceptions.RayError):
                    ray.kill(ray.get_actor(job_actor_name(job.artifact), namespace=NAMESPACE))
                free_placement(job.artifact)
