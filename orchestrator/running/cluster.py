"""Connecting to Ray: a private local one by default, or a running cluster."""

import atexit
import contextlib
import ctypes
import getpass
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar, cast

from slimctl.jobs.base.cluster import Cluster, NodeSize
from slimctl.jobs.base.drain import draining
from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.running.launcher import NAMESPACE

PACKAGE = Path(__file__).parents[2]
"""The folder of `slimctl`, whose parts are links in a checkout."""
KNOCK_S = 5.0
RAY_LISTENER = "ray_listen_error_messages"
"""Name of the thread that prints what Ray's daemons report."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Answer = TypeVar("Answer")
NVML = "libnvidia-ml.so.1"
"""NVIDIA's own library, which every driver brings; Ray counts GPUs by it, too."""


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
    prepare_environment()
    import ray

    if ray.is_initialized():
        yield describe_cluster()
        return
    with contextlib.redirect_stdout(cast("TextIO", _WithoutRay(sys.stdout))):
        try:
            with _handlers_kept():
                if address is None:
                    _provide_home()
                    _start_local(ray)
                else:
                    _join(ray, address)
            yield describe_cluster()
        finally:
            ray.shutdown()


class _WithoutRay:
    """A stream that leaves out what Ray's listener prints: copies of its logs, with colours.

    Args:
        stream: takes what anybody else prints.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if threading.current_thread().name == RAY_LISTENER:
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def prepare_environment() -> None:
    """Settings that Ray reads when it is imported or started; the user's own are left alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Under `uv run` Ray would pack the current folder and start every worker by `uv run` too.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in os.environ:  # Ray's processes have a current folder of their own
            os.environ[name] = str(Path(os.environ[name]).absolute())


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Puts this program's own signal handlers back: Ray replaces them when it starts.

    Where the program has none, Ray's stays: it ends a private Ray in order.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    except SystemExit as stop:  # raised by Ray's handler
        handler = before[signal.SIGTERM]
        if stop.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    finally:
        for number, handler in before.items():
            if callable(handler) or handler == signal.SIG_IGN:
                signal.signal(number, handler)


@contextmanager
def _started_from(folder: Path) -> Iterator[None]:
    """Keeps the user's folders off the workers' path.

    Ray puts the current folder and the script's before everything else there, whatever lies in
    them: a file `numpy.py` would hide the library's.
    """
    path = sys.path[:]
    script = os.path.dirname(os.path.realpath(sys.argv[0]))  # noqa: PTH120  (as Ray compares it)
    sys.path[:] = [entry for entry in path if entry != script]
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        sys.path[:] = path


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
    with _started_from(PACKAGE.parent):  # so that workers run this code, installed or not
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
    try:
        _knock(address)
        with tempfile.TemporaryDirectory(prefix="slimctl-") as empty, _started_from(Path(empty)):
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level="ERROR",
                # The cluster runs this code, whatever it has installed.
                runtime_env={"py_modules": [str(PACKAGE)]},
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


def describe_cluster(left_out: Mapping[str, int] | None = None) -> Cluster:
    """Devices of the cluster that this process is connected to, without nodes that are drained.

    Args:
        left_out: GPUs of a node that do not count, by Ray's id of the node.
    """
    import ray

    leaving, bad = draining(), left_out or {}
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]
    sizes = (_size(node["Resources"], bad.get(node["NodeID"], 0)) for node in nodes)
    return Cluster.of(sizes, _startable(ray))


def _size(resources: Any, bad: int = 0) -> NodeSize:
    return NodeSize(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) - bad)


def _startable(ray: Any) -> Iterator[tuple[NodeSize, int]]:
    """Nodes that an autoscaler can start, where it has told the cluster."""
    config = ray._private.state.state.get_cluster_config()  # noqa: SLF001  (as Ray Data asks)
    for group in config.node_group_configs if config else ():
        count = sys.maxsize if group.max_count < 0 else int(group.max_count)
        if count:
            yield _size(group.resources), count


def devices_here() -> Cluster:
    """Devices that a private Ray on this machine would have."""
    cpus = os.cpu_count() or 1
    return Cluster(cpus=cpus, gpus=_visible(_gpus()))


def gpu_bytes_here() -> int | None:
    """Memory of the smallest NVIDIA GPU of this machine; None without one."""
    return min(_ask_driver(_sizes, list[int]()), default=None)


def _gpus() -> int:
    """Number of NVIDIA GPUs; 0 without a driver."""
    return _ask_driver(_count, 0)


def _ask_driver(question: Callable[[Any], Answer], otherwise: Answer) -> Answer:
    """The answer of NVIDIA's library; `otherwise` without a driver, or one that has none."""
    try:
        library = ctypes.CDLL(NVML)
        if library.nvmlInit_v2() != 0:
            return otherwise
        answer = question(library)
        library.nvmlShutdown()
    except (OSError, AttributeError):
        return otherwise
    return answer


def _count(library: Any) -> int:
    count = ctypes.c_uint()
    found = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
    return count.value if found else 0


class _Memory(ctypes.Structure):
    """NVML's nvmlMemory_t, bytes."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _sizes(library: Any) -> list[int]:
    """Bytes of each GPU that answers."""
    sizes = []
    for number in range(_count(library)):
        handle, memory = ctypes.c_void_p(), _Memory()
        known = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle))
        if known == 0 and library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0:
            sizes.append(int(memory.total))
    return sizes


def _visible(gpus: int) -> int:
    """How many of them CUDA_VISIBLE_DEVICES leaves; those after a -1 do not count."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return gpus
    names = [name.strip() for name in named.split(",")]
    stop = next((at for at, name in enumerate(names) if name in ("", "-1")), len(names))
    return min(gpus, stop)
