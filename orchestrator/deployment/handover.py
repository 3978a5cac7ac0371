"""Handing a launch file to the cluster's own program, and following what becomes of it."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from slimctl.jobs.base.errors import JobFailed, UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import read_status

POLL_S = 5.0
POD_S = 24 * 3600
"""How long a pod may wait for its node."""


def follow_slurm(script: Path, name: str, store: Store) -> None:
    """Hands a batch script to `sbatch` and waits until the job is over, requeues included.

    Args:
        script: the file.
        name: of the pipeline.
        store: where its run is.

    Raises:
        UserError: there is no Slurm here, or it refuses the script.
        JobFailed: the run did not end well.
    """
    job = _asked("sbatch", "--parsable", str(script)).partition(";")[0]
    _say(f"Slurm job {job}, log slimctl-{name}-{job}.log")
    state = ""
    while (
        now := _asked("squeue", "--noheader", "--jobs", job, "--format=%T", may_fail=True)
    ) != "":
        if now != state:
            state = now
            _say(f"Slurm job {job}: {state.lower()}")
        time.sleep(POLL_S)
    file = Path(f"slimctl-{name}-{job}.run")
    run = file.read_text().strip() if file.exists() else ""
    found = read_status(store.blobs, run).state if run else "not started"
    if found != "done":
        what = f"its run is {found}"
        raise JobFailed(f"Slurm job {job}", what, f"look at slimctl-{name}-{job}.log")
    _say(f"run {run}: done")


def follow_kubernetes(file: Path, name: str, namespace: str | None) -> None:
    """Hands a RayJob to `kubectl` and shows what it says until it is over.

    Raises:
        UserError: there is no kubectl here, or it refuses the file.
        JobFailed: the job did not succeed.
    """
    place = ["--namespace", namespace] if namespace else []
    _say(_asked("kubectl", *place, "apply", "-f", str(file)))
    wait = f"--pod-running-timeout={POD_S}s"
    follow = ["kubectl", *place, "logs", "--follow", wait, f"job/{name}"]
    subprocess.run(follow, check=False, stdout=sys.stderr)
    path = "jsonpath={.status.jobStatus}"
    state = _asked("kubectl", *place, "get", f"rayjob/{name}", "-o", path)
    if state != "SUCCEEDED":
        raise JobFailed(f"RayJob {name}", f"is {state or 'not started'}", "apply it to go on")


def _asked(program: str, *arguments: str, may_fail: bool = False) -> str:
    """What a program prints.

    Raises:
        UserError: it is not there, or fails; "" instead if it may.
    """
    if shutil.which(program) is None:
        raise UserError("--submit", f"there is no {program} here", "hand the file to it elsewhere")
    done = subprocess.run([program, *arguments], check=False, capture_output=True, text=True)
    if done.returncode and not may_fail:
        raise UserError(program, done.stderr.strip() or f"ended with {done.returncode}")
    return done.stdout.strip() if done.returncode == 0 else ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201  (talk goes to stderr)
