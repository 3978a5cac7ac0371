"""Handing a run to Ray's job server: the program runs on the head, this machine may leave.

The project's code travels as the working folder, its pinned requirements beside it: a node that has
them installs nothing. Outside files and the storage are those that the cluster sees.
"""

import importlib.metadata
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, SlimError, UserError
from slimctl.orchestrator.running.cluster import PACKAGE, prepare_environment

POLL_S = 1.0
AGENT_S = 60.0
NO_AGENT = "No available agent"
"""What a job server answers that has no agent to start a job with, yet."""
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")
UPLOAD_MIB = 100


def is_job_server(address: str | None) -> bool:
    """Whether an address is that of a job server."""
    return address is not None and address.startswith(("http://", "https://"))


def run_on_job_server(
    address: str,
    name: str,
    arguments: Sequence[str],
    files: dict[str, str],
    *,
    detach: bool,
    tell: Callable[[str], None],
) -> str:
    """Runs `slimctl <arguments> --address auto` on the head of a cluster.

    Args:
        address: of the job server.
        name: the submission is called after it.
        arguments: of slimctl; files are named without a folder.
        files: name -> text of files that the arguments name.
        detach: return once the server has it.
        tell: takes what the program on the head says.

    Returns:
        The id of the submission.

    Raises:
        UserError: there is no job server, it does not let us in, or it takes no job.
        SlimError: the program on the head failed, with the same exit code.
    """
    client = _connect(address)
    with tempfile.TemporaryDirectory(prefix="slimctl-job-") as folder:
        pinned = _pack(Path(folder), files)
        words = ["python", "-m", "slimctl", *arguments, "--address", "auto"]
        submission = _submit(
            client,
            address,
            entrypoint=shlex.join(words),
            submission_id=f"slimctl-{name}-{time.time_ns():x}",
            runtime_env={"working_dir": folder, **pinned},
            metadata={"slimctl": name},
        )
    if not detach:
        _follow(client, submission, tell)
    return submission


def _submit(client: Any, address: str, **request: Any) -> str:
    """Submits when the head's agent is there, which comes up seconds after its server.

    Raises:
        UserError: the agent did not come, or the server refuses the request.
    """
    end = time.monotonic() + AGENT_S
    while True:
        try:
            return str(client.submit_job(**request))
        except RuntimeError as error:
            if NO_AGENT in str(error) and time.monotonic() < end:
                time.sleep(POLL_S)
                continue
            what = str(error).strip().splitlines()[0]
            fix = (
                "look at the head's logs (dashboard_agent.log); where another Ray runs on that "
                "machine, the head needs --dashboard-agent-listen-port"
            )
            raise UserError(f"--address {address}", f"took no job: {what}", fix) from error


def _connect(address: str) -> Any:
    prepare_environment()
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        client.get_version()
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise UserError(
            f"--address {address}",
            f"no job server of Ray answers there: {type(error).__name__}: {first}",
            "check that the head runs with its dashboard (`ray start --head`, port 8265), and if "
            "it asks for a token set RAY_AUTH_TOKEN",
        ) from error
    return client


def _pack(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Copies the code and the files; returns the requirements for the runtime environment."""
    left_out = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=left_out)
    for name, text in files.items():
        (folder / name).write_text(text)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > UPLOAD_MIB * 2**20:
        raise UserError(
            str(PACKAGE), f"holds {size / 2**20:.0f} MiB of code", f"Ray takes {UPLOAD_MIB} MiB"
        )
    pinned = requirements()
    return {"pip": pinned} if pinned else {}


def requirements() -> list[str]:
    """The versions that run here of the packages that the program itself needs.

    Without a local part such as +cpu: a build for another device will do.
    """
    try:
        needed = importlib.metadata.requires("slimctl") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    own = [text for text in needed if "extra ==" not in text]
    found = [re.match(r"[\w.-]+(\[[\w,-]+\])?", text) for text in own]
    names = [match[0] for match in found if match]
    return [f"{name}=={_version(name.partition('[')[0])}" for name in names]


def _version(name: str) -> str:
    return importlib.metadata.version(name).partition("+")[0]


def _follow(client: Any, submission: str, tell: Callable[[str], None]) -> None:
    """Passes on what the program says until it ends.

    Raises:
        JobFailed: it did not end well.
    """
    said = 0
    while True:
        status = str(client.get_job_status(submission).value)
        text = client.get_job_logs(submission)
        if len(text) > said:
            tell(text[said:])
            said = len(text)
        if status in FINAL:
            break
        time.sleep(POLL_S)
    if status != "SUCCEEDED":
        info = client.get_job_info(submission)
        if info.driver_exit_code in (130, 143):
            raise KeyboardInterrupt
        kinds: dict[int | None, type[SlimError]] = {2: UserError, 3: DamagedArtifact}
        raise kinds.get(info.driver_exit_code, JobFailed)(
            f"submission {submission}",
            f"ended as {status.lower()} with exit code {info.driver_exit_code}",
            "what it said is above",
        )


def leave_notice(submission: str, address: str) -> str:
    """What a user reads who detaches."""
    return (
        f"submission {submission} is on its way at {address}\n"
        f"  look: slimctl status --storage STORAGE, or ray job logs {submission} --address "
        f"{address} -f"
    )


def echo(text: str) -> None:
    """Passes the head's words on to stderr as they are."""
    sys.stderr.write(text)
    sys.stderr.flush()
