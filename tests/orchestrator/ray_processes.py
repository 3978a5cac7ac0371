"""Clusters of this process, and the processes in them, by number."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ray.cluster_utils import Cluster as RayCluster

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.events import Event, read_events
from slimctl.orchestrator.runs.runs import run_ids

SLIMCTL = [sys.executable, "-m", "slimctl"]
LONGEST_S = 300.0
"""For which anything is waited: a bound on what hangs, no claim on how fast it comes."""
STARTED: list[subprocess.Popen[str]] = []
"""Programs of the test that runs."""


@contextlib.contextmanager
def cluster_of(*cpus: int, first: int = 2, **head: object) -> Iterator[RayCluster]:
    """Raylets on loopback addresses 127.0.0.<first>, ...; the first is the head, with options."""
    cluster = RayCluster()
    try:
        for at, count in enumerate(cpus):
            address = f"127.0.0.{first + at}"
            more = {"include_dashboard": False, **head} if at == 0 else {}
            cluster.add_node(num_cpus=count, node_ip_address=address, **more)
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()


def slimctl(*words: object, **options: object) -> subprocess.Popen[str]:
    """The program, started."""
    command = [*SLIMCTL, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    STARTED.append(subprocess.Popen(command, text=True, **pipes, **options))
    return STARTED[-1]


def end_all() -> None:
    """Ends what a test that failed left behind."""
    for program in STARTED:
        if program.poll() is None:
            program.kill()
            program.communicate()
    STARTED.clear()


def ended(program: subprocess.Popen[str], timeout: float = 2 * LONGEST_S) -> tuple[int, str, str]:
    """How the program ended: exit code, stdout, stderr."""
    out, err = program.communicate(timeout=timeout)
    return program.returncode, out, err


def processes(title: str) -> list[int]:
    """Our Ray processes whose title begins so, such as `ray::Supervisor`."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if command.startswith(title) and _is_ours(int(folder.name)):
                found.append(int(folder.name))
    return sorted(found)


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def kill(title: str) -> int:
    """Kills the one process of that title, hard, as soon as there is one; returns its number."""
    pids = until(lambda: processes(title))
    os.kill(pids[0], signal.SIGKILL)
    return pids[0]


def rss_mib(pid: int) -> float:
    """Memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def until(condition: Callable[[], object], seconds: float = LONGEST_S) -> object:
    """Waits for something to be true; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
    return found


def events_of(storage: Path) -> list[Event]:
    """Events of the latest run."""
    blobs = Store(str(storage)).blobs
    runs = run_ids(blobs)
    return list(read_events(blobs, runs[-1])) if runs else []


def has_progress(storage: Path, job: str, least: int = 1) -> Callable[[], bool]:
    """Whether a job of the latest run has got so far."""
    return lambda: any(
        event.name == "progress" and event.job == job and event.details["done"] >= least
        for event in events_of(storage)
    )


def said(storage: Path, name: str, job: str = "") -> list[Event]:
    """Events of one name."""
    return [e for e in events_of(storage) if e.name == name and (not job or e.job == job)]


def result_bytes(storage: Path) -> dict[str, bytes]:
    """What results say, apart from how long they took."""
    files = sorted(storage.glob("artifacts/*/*.safetensors")) + sorted(
        storage.glob("pairs/*/*.safetensors")
    )
    return {file.relative_to(storage).as_posix(): file.read_bytes() for file in files}


def note(what: str, **figures: float) -> None:
    """Keeps measured figures where the environment names a file."""
    file = os.environ.get("SLIMCTL_FIGURES")
    if file:
        with Path(file).open("a") as lines:
            lines.write(json.dumps({"what": what, **figures}) + "\n")
