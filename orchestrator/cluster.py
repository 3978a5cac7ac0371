"""Connecting to Ray: a private local one by default, or a running cluster."""

import atexit
import getpass
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.base.cluster import Cluster
from jobs.base.errors import UserError
from orchestrator.workers import NAMESPACE

PACKAGES = ("models", "jobs", "orchestrator")
KNOCK_S = 5.0


@contextmanager
def connect(address: str | None) -> Iterator[Cluster]:
    """Opens a connection to Ray and says what the cluster has.

    Args:
        address: None starts a private Ray on this machine, which ends with the connection; `auto`
            or `host:port` joins a running cluster. A connection that is open already is used as
            it is and left open.

    Raises:
        UserError: there is no such cluster, or it does not let us in.
    """
    _prepare_environment()
    import ray

    if ray.is_initialized():
        yield describe_cluster()
        return
    if address is None:
        _provide_home()
        _start_local(ray)
    else:
        _join(ray, address)
    try:
        yield describe_cluster()
    finally:
        ray.shutdown()


def _prepare_environment() -> None:
    """Settings that Ray reads when it is imported or started; the user's own are left alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")


def _provide_home() -> None:
    """A home for a user that has none, such as a container's that is but a number.

    Ray, torch and MLflow ask for a home and a name before they do anything. A home that is there
    stays, since credentials may be in it; the token that Ray would write into it can be given.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(tempfile.mkdtemp(prefix="slimctl-home-"))
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        os.environ["HOME"] = str(home)
    if not os.access(home, os.W_OK) and not (home / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _start_local(ray: Any) -> None:
    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=True,
        _node_ip_address="127.0.0.1",
    )


def _join(ray: Any, address: str) -> None:
    if "://" in address and not address.startswith("ray://"):
        raise UserError(
            f"--address {address}",
            "is not the address of a Ray cluster",
            "use auto, host:port as `ray start --head` prints it, or http://host:8265",
        )
    root = Path(__file__).parent.parent
    try:
        _knock(address)
        ray.init(
            address=address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level="ERROR",
            # The cluster runs this code, whatever it has installed.
            runtime_env={"py_modules": [str(root / name) for name in PACKAGES]},
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--address {address}",
            f"no Ray cluster could be joined there: {first}",
            "start one with `ray start --head`, check host and port, and if it asks for a token "
            "set RAY_AUTH_TOKEN; without --address a private Ray is started here",
        ) from error


def _knock(address: str) -> None:
    """Raises OSError if nothing listens at host:port; Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if host and "://" not in address and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def describe_cluster() -> Cluster:
    """Devices of the cluster that this process is connected to."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    return Cluster(cpus=sum(cpus), gpus=gpus, node_cpus=min(cpus, default=1))
