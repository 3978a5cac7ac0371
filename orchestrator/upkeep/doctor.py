"""What is wrong or missing here and on a cluster, and how to repair it."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

from slimctl.jobs.base.errors import SlimError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.planning.plan import absolute_uri, default_tracking, sqlite_file
from slimctl.orchestrator.running.preconditions import Check, blind_nodes, preconditions

PACKAGES = ("ray", "torch", "mlflow", "pydantic", "numpy", "pyarrow", "safetensors")
CLOCK_S = 2.0
"""Difference between two clocks that matters: leases are valid for 30 s."""
SLOW_S = 1.0
ANSWER_S = 5.0


def diagnose(storage: str, tracking: str | None, address: str | None) -> Iterator[Check]:
    """Looks at everything that a run needs: here, or on the cluster at `address`.

    Without a tracking URI that of the storage's own file is taken.
    """
    yield from _versions()
    yield _gpus()
    if address is None:
        yield from preconditions()
    store = None
    try:
        store = Store(storage)
    except SlimError as error:
        yield Check("storage", "bad", error.what, error.fix)
    if store is not None:
        yield _storage(store)
        yield _storage_clock(store)
        yield _mlflow(tracking, store)
    if address is not None:
        yield from _cluster(address, store)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a cluster must share with us."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _versions() -> Iterator[Check]:
    found = versions()
    missing = [name for name, version in found.items() if not version]
    seen = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if missing:
        yield Check("versions", "bad", f"not installed: {', '.join(missing)}", "make install")
    else:
        yield Check("versions", "ok", seen)


def _gpus() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("devices", "ok", f"no GPU, {os.cpu_count()} CPUs")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("devices", "ok", f"{', '.join(names)}; {os.cpu_count()} CPUs")


def _storage(store: Store) -> Check:
    started = time.perf_counter()
    try:
        store.check_writable()
    except SlimError as error:
        return Check("storage", "bad", f"{error.where} {error.what}", error.fix)
    seconds = (time.perf_counter() - started) / 2
    if seconds > SLOW_S:
        fix = "runs work, but every checkpoint and event waits for it"
        return Check("storage", "warn", f"{store.uri} is slow: {seconds:.1f} s a call", fix)
    return Check("storage", "ok", f"{store.uri} can be written, {seconds * 1000:.0f} ms a call")


def _storage_clock(store: Store) -> Check:
    name = f"tmp/clock-{time.time_ns():x}"
    try:
        before = time.time()
        store.blobs.write(name, b"clock")
        written = store.blobs.modified(name)
        after = time.time()
        store.blobs.delete(name)
    except OSError as error:
        return Check("clock", "warn", f"not compared with the storage: {error}")
    off = 0.0 if written is None else max(before - written, written - after, 0.0)
    return _clock("clock of the storage", off)


def _clock(name: str, off: float) -> Check:
    if off > CLOCK_S:
        fix = "run a time service (NTP) on both: leases are judged by the clock"
        return Check(name, "bad", f"differs by {off:.1f} s from this machine's", fix)
    return Check(name, "ok", f"within {CLOCK_S:g} s")


def _mlflow(tracking: str | None, store: Store) -> Check:
    uri = absolute_uri(tracking) if tracking else default_tracking(store) or ""
    file = sqlite_file(uri)
    if file is not None:
        return _database(file, uri)
    parts = urlparse(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return Check("mlflow", "ok", uri or "off: a remote storage and no tracking URI")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname, port), timeout=ANSWER_S).close()
    except OSError as error:
        fix = "start it with `mlflow server`; runs go on without it and tracking follows later"
        place = f"{parts.hostname}:{port}"
        return Check("mlflow", "bad", f"nothing answers at {place}: {error}", fix)
    return Check("mlflow", "ok", f"a server answers at {parts.hostname}:{port}")


def _database(file: Path, uri: str) -> Check:
    """The tracking database: of the schema that the installed MLflow writes, and not locked."""
    goes_on = "runs go on without it, and slimctl resume completes the tracking"
    if not file.exists():
        return Check("mlflow", "ok", f"{file} is made by the first run")
    try:
        found = _revision(file)
    except sqlite3.Error as error:
        fix = f"end the program that holds it (fuser {shlex.quote(str(file))}); {goes_on}"
        if "locked" not in str(error):
            fix = f"move it away, or repair its permissions; {goes_on}"
        return Check("mlflow", "bad", f"{file} cannot be used: {error}", fix)
    known, newest = _known_revisions()
    version = importlib.metadata.version("mlflow")
    if not found or found == newest:
        return Check("mlflow", "ok", uri)
    what = f"{file} has the schema {found}, and MLflow {version} writes {newest}"
    if found in known:
        fix = f"keep a copy, then mlflow db upgrade {shlex.quote(uri)}; {goes_on}"
        return Check("mlflow", "bad", f"{what}: it is older", fix)
    fix = f"install the newer MLflow that wrote it, or use another --tracking; {goes_on}"
    return Check("mlflow", "bad", f"{what}: it is newer", fix)


def _revision(file: Path) -> str:
    """The schema of a database, "" if it has none yet; sqlite3.Error if it cannot be used."""
    place = f"file:{quote(str(file))}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(place, uri=True, timeout=ANSWER_S, isolation_level=None)
    ) as database:
        database.execute("BEGIN IMMEDIATE")  # as one who is going to write
        tables = database.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
        rows = database.execute("SELECT version_num FROM alembic_version") if [*tables] else ()
        return "".join(row[0] for row in rows)


def _known_revisions() -> tuple[set[str], str]:
    """All schemas that the installed MLflow knows, and the one that it writes."""
    from alembic.script import ScriptDirectory

    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None
    assert mlflow.origin is not None
    scripts = ScriptDirectory(str(Path(mlflow.origin).parent / "store" / "db_migrations"))
    return {one.revision for one in scripts.walk_revisions()}, scripts.get_heads()[0]


def _cluster(address: str, store: Store | None) -> Iterator[Check]:
    from slimctl.orchestrator.running.cluster import connect

    try:
        with connect(address) as cluster:
            yield Check("cluster", "ok", f"{address}: {cluster.cpus} CPUs, {cluster.gpus} GPUs")
            yield from _nodes()
            if store is not None:
                blind = blind_nodes(store)
                fix = "use a folder that all nodes mount, or s3://"
                seen = f"not seen from {', '.join(blind)}" if blind else "seen from every node"
                yield Check("shared storage", "bad" if blind else "ok", seen, fix if blind else "")
    except SlimError as error:
        yield Check("cluster", "bad", f"{error.where}: {error.what}", error.fix)


def _nodes() -> Iterator[Check]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Callable[..., Any] = ray.remote(_look).options
    for node in [node for node in ray.nodes() if node["Alive"]]:
        name = f"node {node['NodeManagerAddress']}"
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        before = time.time()
        try:
            there, found, clock = ray.get(
                look(num_cpus=0, scheduling_strategy=place).remote(), timeout=60
            )
        except ray.exceptions.RayError as error:
            yield Check(name, "bad", f"does not answer: {type(error).__name__}", "ray status")
            continue
        ours = versions()
        other = [f"{k} {found[k] or 'none'} (here {v})" for k, v in ours.items() if found[k] != v]
        if other:
            fix = "install the same versions there: pip install -c constraints.txt slimctl"
            yield Check(name, "bad", f"has other versions: {', '.join(other)}", fix)
        else:
            yield Check(name, "ok", there)
        yield _clock(f"clock of {name}", max(before - clock, clock - time.time(), 0.0))


def _look() -> tuple[str, dict[str, str], float]:
    """Runs on a node."""
    return f"{socket.gethostname()}, {os.cpu_count()} CPUs", versions(), time.time()
