"""What a run needs of this machine and of the nodes, looked at before Ray starts.

Ray itself fails late and oddly, and waits half a minute for a process that could not open a socket.
"""

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.deaths import memory_limit
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.planning.fit import misfits
from slimctl.orchestrator.planning.plan import RunPlan

SOCKET_BYTES = 107
"""Longest path of a Unix socket."""
SESSION = "ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
"""What Ray adds to the folder for its sockets."""
MEMORY_GIB = 1.0
"""Ray's own processes take about 0.7 GiB, a worker with torch 0.4."""
COMFORT_GIB = 2.5
SHARED = Path("/dev/shm")
SHARED_MIB = 64
FULL = 0.95
"""Used share of the disk from which Ray refuses to put objects there."""
State = Literal["ok", "warn", "bad"]
PROBE_S = 60.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: State
    what: str
    fix: str = ""


def preconditions() -> Iterator[Check]:
    """Looks at what a private Ray needs here: a folder, memory, shared memory."""
    yield _temporary_folder()
    yield _memory()
    yield _shared_memory()


def check_preconditions() -> list[str]:
    """Says what may go wrong later with a private Ray here.

    Raises:
        UserError: it cannot start.
    """
    found = list(preconditions())
    for check in found:
        if check.state == "bad":
            raise UserError("a private Ray cannot start here", check.what, check.fix)
    return [f"{check.what}\n  fix: {check.fix}" for check in found if check.state == "warn"]


def _temporary_folder() -> Check:
    """The folder where Ray keeps sockets and logs: RAY_TMPDIR, TMPDIR or /tmp."""
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
    folder = Path(os.environ.get(variable, "/tmp")).absolute()
    state = f"{variable}={folder}"
    own = f"set {variable} to a folder of your own with a short path, such as /tmp/$USER"
    longest = len(os.fsencode(folder / SESSION.format(pid=os.getpid())))
    if longest > SOCKET_BYTES:
        what = (
            f"{state} is too long: Ray's sockets in it would have paths of {longest} bytes, and "
            f"the system takes {SOCKET_BYTES}"
        )
        return Check("folder of Ray", "bad", what, f"{own} (at most {_room()} bytes)")
    if not folder.is_dir():
        what = f"{state} is {'no folder' if folder.exists() else 'not there'}"
        return Check("folder of Ray", "bad", what, f"mkdir -p {folder}, or {own}")
    for place in (folder / "ray", folder):
        if place.is_dir():
            break
    if not os.access(place, os.W_OK | os.X_OK):
        who = f"{place} belongs to user {place.stat().st_uid} and cannot be written by you"
        return Check("folder of Ray", "bad", f"{state}: {who}", own)
    disk = shutil.disk_usage(place)
    if disk.used > FULL * (disk.used + disk.free):
        what = f"{state}: its disk is over {FULL:.0%} full ({disk.free / 2**30:.1f} GiB left)"
        return Check("folder of Ray", "warn", what, f"make room there, or {own}")
    return Check("folder of Ray", "ok", state)


def _room() -> int:
    """Bytes that the path of Ray's folder may have."""
    return SOCKET_BYTES - len(f"/{SESSION.format(pid=os.getpid())}")


def _memory() -> Check:
    limit = memory_limit()
    if limit is None:
        return Check("memory", "ok", "not known")
    state = f"{limit / 2**30:.1f} GiB of memory"
    fix = "raise the limit of the container or of the scheduler's job (--memory, --mem)"
    if limit < MEMORY_GIB * 2**30:
        return Check("memory", "bad", f"{state}: Ray needs {MEMORY_GIB:g} GiB to start", fix)
    if limit < COMFORT_GIB * 2**30:
        what = f"{state}: a worker that trains may not fit beside Ray below {COMFORT_GIB:g} GiB"
        return Check("memory", "warn", what, fix)
    return Check("memory", "ok", state)


def _shared_memory() -> Check:
    """Small shared memory works: Ray puts large objects on the disk instead."""
    if not SHARED.is_dir():
        return Check("shared memory", "warn", f"there is no {SHARED}", "mount a tmpfs there")
    size = shutil.disk_usage(SHARED)
    state = f"{SHARED} has {size.free / 2**20:,.0f} MiB free"
    if size.free < SHARED_MIB * 2**20 or not os.access(SHARED, os.W_OK):
        fix = "give the container more: docker run --shm-size=2g"
        return Check("shared memory", "warn", f"{state}: Ray uses the slower disk", fix)
    return Check("shared memory", "ok", state)


def check_devices(plan: RunPlan, cluster: Cluster, *, grows: bool) -> list[str]:
    """Looks for jobs that ask for more than the cluster can have, with the GPUs that are expected.

    Args:
        plan: of the run.
        cluster: what is there.
        grows: whether nodes may join it; a private Ray has this machine alone.

    Returns:
        What may wait for ever, one text each, where nodes may still join.

    Raises:
        UserError: no node can ever hold a job, or have the GPUs that are expected.
    """
    expected = cluster.expecting(plan.resources)
    if expected.gpus > cluster.gpus and not grows:
        raise UserError(
            f"resources: {expected.gpus} GPUs",
            f"a private Ray has what this machine has, {cluster}, and no more are to come",
            "name a cluster that starts them (--address), or run on what is here (--expect-gpus 0)",
        )
    found = misfits(plan, expected)
    if found and (not grows or cluster.startable):
        what = "; ".join(one.what for one in found)
        raise UserError("the cluster is too small", what, found[0].fix)
    return [f"{one.what}; it waits for nodes that can hold it\n  fix: {one.fix}" for one in found]


def check_shared(store: Store) -> None:
    """Checks that each node of the connected cluster reads what is written here.

    Raises:
        UserError: a node does not; all such nodes are named.
    """
    blind = blind_nodes(store)
    if blind:
        raise UserError(
            f"storage {store.uri}",
            f"cannot be seen from {len(blind)} node(s) of the cluster: {', '.join(blind)}",
            "use a folder that all nodes mount at the same path, or s3://bucket/folder "
            "(with its credentials in the environment of the nodes)",
        )


def blind_nodes(store: Store) -> list[str]:
    """Addresses of the nodes that do not read what is written here, each with the reason."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 and "://" not in store.uri and _is_here(nodes[0]):
        return []
    name, content = f"tmp/seen-{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.blobs.write(name, content)
    try:
        probes = {
            node["NodeManagerAddress"]: ray.remote(_see)
            .options(
                num_cpus=0,
                max_retries=1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(store.uri, name, content)
            for node in nodes
        }
        ray.wait(list(probes.values()), num_returns=len(probes), timeout=PROBE_S)
        state = {address: _answer(probe) for address, probe in probes.items()}
    finally:
        store.blobs.delete(name)
    return [f"{address} ({why})" for address, why in state.items() if why]


def _is_here(node: dict[str, str]) -> bool:

    return node["NodeManagerHostname"] == socket.gethostname()


def _answer(probe: object) -> str:
    import ray

    try:
        return str(ray.get(probe, timeout=0.1))
    except ray.exceptions.RayError as error:
        return f"no answer: {type(error).__name__}"


def _see(uri: str, name: str, content: bytes) -> str:
    """Runs on a node: what is wrong with the storage there, or ""."""
    try:
        found = Store(uri).blobs.read(name)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the answer)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if found == content else "it holds other files"
