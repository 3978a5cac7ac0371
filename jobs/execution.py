"""Runs one job in this process: loads its inputs, calls `run`, commits the result.

Safe to call again with the same request: a finished artifact is returned as it is, unfinished work
is continued by the kind itself.
"""

import os
import shutil
import time
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext, Reporter
from slimctl.jobs.base.errors import BadDevice, SlimError, UserError, WorkLost
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.base.failures import may_pass, recognised
from slimctl.jobs.base.keys import series_id
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.base.registry import parse_job
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.storage.lease import Lock
from slimctl.jobs.storage.store import Store


@dataclass(frozen=True)
class JobRequest:
    """All that is needed to run a job anywhere."""

    job: str
    kind: str
    fields: Mapping[str, Any]
    """The spec as plain data, seed filled in, without `kind`."""
    artifact_id: str
    inputs: Mapping[str, str]
    """Job name -> artifact id of every input."""
    storage: str
    cluster: Cluster
    reporter: Reporter
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """Content of outside files when the key was made."""
    run: str = ""
    """Run that asks."""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended."""

    artifact_id: str
    failure: str | None = None
    """Name of the exception's class; None if the artifact is there."""
    where: str = ""
    what: str = ""
    fix: str = ""
    trace: str = ""
    """Traceback of an error that is ours to repair."""
    retry: bool = False
    """Whether another attempt may succeed."""
    device: tuple[str, str] = ("", "")
    """Ray's ids of the node and the GPU that failed; "" if none did, or it is not known."""
    wall_s: float = 0.0
    device_s: float = 0.0


def execute(request: JobRequest, device: str = "cpu", threads: int = 1) -> JobOutcome:
    """Runs a job; never raises."""
    started = time.perf_counter()
    try:
        device_s = _run(request, device, threads)
    except Exception as error:  # noqa: BLE001  (the supervisor decides what becomes of it)
        outcome = failed(request.job, request.artifact_id, error)
    else:
        outcome = JobOutcome(request.artifact_id, device_s=device_s)
    return replace(outcome, wall_s=time.perf_counter() - started)


def failed(job: str, artifact: str, error: Exception) -> JobOutcome:
    """How a job ended that raised an error.

    Args:
        job: its name.
        artifact: id of the result that it did not make.
        error: what it raised, where it is caught.
    """
    name, where = type(error).__name__, f"job '{job}'"
    if isinstance(error, FieldError):
        where = f"{where}, {error.field}"
        return JobOutcome(artifact, UserError.__name__, where, error.what, error.fix)
    trace = "" if isinstance(error, SlimError) else traceback.format_exc()
    known = error if isinstance(error, SlimError) else recognised(error, where)
    if known is None:
        retry = may_pass(error)
        return JobOutcome(artifact, name, where, f"{name}: {error}", trace=trace, retry=retry)
    device = (known.node, known.device) if isinstance(known, BadDevice) else ("", "")
    retry = isinstance(known, WorkLost)
    kind = type(known).__name__
    return JobOutcome(
        artifact, kind, known.where, known.what, known.fix, trace, retry, device=device
    )


def _run(request: JobRequest, device: str, threads: int) -> float:
    store = Store(request.storage)
    if not _is_done(store, request):
        spec = parse_job(request.kind, request.fields)
        _check_unchanged(request, spec)
        owner = f"{request.run}/{request.job}"
        lock = Lock(store.blobs, series_id(spec, request.artifact_id), owner)
        with lock.held(lambda: _is_done(store, request), partial(_say_who, request)) as needed:
            if needed:
                return _make(request, spec, store, lock, device, threads)
    store.work(request.artifact_id).delete("")  # of an attempt that died after its commit
    manifest = store.manifest(request.artifact_id)
    assert manifest is not None
    return manifest.device_s


def _say_who(request: JobRequest, owner: str) -> None:
    request.reporter.send(request.job, "log", message=f"waits: {owner} is making it")


def _make(
    request: JobRequest, spec: JobSpec, store: Store, lock: Lock, device: str, threads: int
) -> float:
    inputs = {ref.job: store.load_any(request.inputs[ref.job]) for _, ref in iter_refs(spec)}
    spec.expect({place: inputs[ref.job].facts() for place, ref in iter_refs(spec)})
    folder = store.stage()
    context = JobContext(
        job=request.job,
        artifact_id=request.artifact_id,
        store=store,
        inputs=inputs,
        folder=folder,
        cluster=request.cluster,
        device=device,
        threads=threads,
        reporter=request.reporter,
    )
    started = time.perf_counter()
    try:
        with _float32_products(device):
            handle = spec.run(context)
        wall_s = time.perf_counter() - started
        device_s = wall_s if context.device_s is None else context.device_s
        engine = {"device": device, "threads": threads, "host_cpus": os.cpu_count()}
        if lock.lost:
            raise WorkLost(f"job '{request.job}'", "another attempt took its place")
        store.commit(
            request.artifact_id,
            handle,
            folder,
            {
                "kind": request.kind,
                "version": spec.version,
                "spec": spec.model_dump(mode="json"),
                "inputs": dict(request.inputs),
                "wall_s": wall_s,
                "device_s": device_s,
                "notes": tuple(context.notes),
                "engine": engine | context.engine,
            },
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    context.work.delete("")
    return device_s


def _float32_products(device: str) -> AbstractContextManager[None]:
    """IEEE's on a GPU, but in networks whose engine says otherwise; as before afterwards."""
    if device == "cpu":
        return nullcontext()
    from slimctl.models.engine import Engine  # noqa: PLC0415  (torch)

    return Engine().products()


def _is_done(store: Store, request: JobRequest) -> bool:
    return store.state(request.artifact_id) == "done"


def _check_unchanged(request: JobRequest, spec: JobSpec) -> None:
    """Refuses outside files and metrics that are not those of the plan."""
    if request.fingerprint and dict(request.fingerprint) != spec.fingerprint():
        raise UserError(
            f"job '{request.job}'",
            "its source files, or the metrics installed, changed after the run was planned",
            "submit again: new content has a key of its own; install the same packages everywhere",
        )
