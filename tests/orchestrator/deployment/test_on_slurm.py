"""A pipeline on a Slurm of this machine, which outlives a limit of two minutes.

Slurm's daemons and all that they start live in a namespace of processes of their own: `ray
symmetric-run` ends every Ray that it sees. Needs slurmctld, slurmd and munge, and to be root.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.events import read_events
from slimctl.orchestrator.runs.runs import run_ids

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "unshare")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason=f"needs to be root, and {', '.join(PROGRAMS)}",
    ),
]
CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5
MailProg=/bin/true
KillWait=15
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=2 State=UP
"""
DAEMONS = """\
set -eu
cd {folder}
munged --foreground --force --key-file={folder}/munge.key --socket={folder}/munge.socket \\
  --pid-file={folder}/munge.pid --log-file={folder}/munge.log --seed-file={folder}/munge.seed &
sleep 2
slurmctld -D -f {folder}/slurm.conf &
sleep 2
exec slurmd -D -f {folder}/slurm.conf
"""
SECONDS = 170
"""Training time without the starts: at most 90 s of it fit into an attempt."""


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {
        "folder": folder, "host": socket.gethostname(), "ports": free_ports(2),
        "cpus": os.cpu_count(),
    }  # fmt: skip
    (folder / "slurm.conf").write_text(CONF.format(**names))
    (folder / "start.sh").write_text(DAEMONS.format(**names))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    daemons = subprocess.Popen(
        [*alone, "bash", folder / "start.sh"], stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while asked("sinfo", "--noheader", "--format=%t") not in ("idle", "idle~"):
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(1)
        yield folder
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemons.pid, signal.SIGKILL)  # the namespace ends with its first process
        daemons.wait()


def asked(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def pipeline(folder: Path, name: str, steps: int) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(
        f"name: {name}\nstorage: {folder}/{name}-store\ntracking: null\njobs:\n"
        "  data: {kind: load_dataset, source: digits}\n"
        "  teacher: {kind: train_flow, data: data, network: {kind: song_unet, channels: 8, "
        f"channel_multipliers: [1, 2], blocks: 1}}, steps: {steps}, batch_size: 32, workers: 1, "
        "checkpoint_s: 20}\n"
        "  pairs: {kind: generate_pairs, flow: teacher, count: 600, shard_size: 100, "
        "solver: {kind: heun, steps: 4}}\n"
    )
    return file


def slimctl(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "slimctl", *map(str, words)], check=True)


def digests(store: Store) -> dict[str, object]:
    """Job -> checksums of the files that it made."""
    found = {}
    for name in ("teacher", "pairs"):
        (run,) = run_ids(store.blobs)[-1:]
        jobs = next(e for e in read_events(store.blobs, run) if e.name == "run_started").details
        artifact = jobs["jobs"][name]["artifact"]
        manifest = json.loads(store.blobs.read(f"artifacts/{artifact}/artifact.json"))
        found[name] = (artifact, manifest["files"])
    return found


def test_a_pipeline_outlives_its_limit_and_ends_bit_equal(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slimctl("submit", pipeline(tmp_path, "rate", 400))
    rate = rate_of(Store(f"{tmp_path}/rate-store"))
    steps = max(1000, int(rate * SECONDS) // 100 * 100)
    file = pipeline(tmp_path, "long", steps)
    words = ("launch", file, "--to", "slurm", "--time", "2m", "--notice", "30s", "--submit")
    launched = subprocess.Popen([sys.executable, "-m", "slimctl", *map(str, words)])
    while launched.poll() is None:
        time.sleep(2)
        waits = asked("squeue", "--noheader", "--states=PENDING", "--format=%i %r")
        if waits.endswith("BeginTime"):  # Slurm lets a requeued job wait for two minutes
            asked("scontrol", "update", f"JobId={waits.split()[0]}", "StartTime=now")
    (log,) = tmp_path.glob("slimctl-long-*.log")
    assert launched.returncode == 0, log.read_text()[-5000:]
    assert log.read_text().count("the time limit is near") >= 3
    store = Store(f"{tmp_path}/long-store")
    (run,) = run_ids(store.blobs)
    assert_nothing_is_lost(read_events(store.blobs, run))
    alone = pipeline(tmp_path, "alone", steps)
    slimctl("submit", alone)
    assert digests(store) == digests(Store(f"{tmp_path}/alone-store"))


def rate_of(store: Store) -> float:
    (run,) = run_ids(store.blobs)
    points = [
        (event.time, event.details["done"])
        for event in read_events(store.blobs, run)
        if event.name == "progress" and event.job == "teacher"
    ]
    (t0, n0), (t1, n1) = points[0], points[-1]
    return (n1 - n0) / (t1 - t0)


def assert_nothing_is_lost(events) -> None:
    """After each start the training goes on where the last attempt made its checkpoint."""
    reached, starts = 0, 0
    fresh = False
    for event in events:
        if event.job != "teacher":
            continue
        if event.name == "job_started":
            starts, fresh = starts + 1, True
        elif event.name == "progress":
            assert not fresh or event.details["done"] >= reached
            reached, fresh = event.details["done"], False
    assert starts >= 4
