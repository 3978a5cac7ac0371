"""Files that start a pipeline elsewhere; Slurm and kubectl are stand-ins on PATH here."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

STAND_INS = {
    "scontrol": 'if [ "$1" = show ]; then echo here; else echo "$@" >> "$LOG"; fi',
    "srun": 'case "$*" in *" -- "*) while [ "$1" != -- ]; do shift; done; shift; "$@";; esac',
    "slimctl": 'echo "slimctl $*" >> "$LOG"; if [ "$1" = submit ]; then echo \'{"run": "r-1"}\'; '
    'elif [ "$1" = resume ]; then sleep "${STAYS:-0}"; exit "${ENDS:-0}"; fi',
    "sbatch": "echo 17",
    "squeue": "exit 1",
}
"""Program -> what it does in bash; `srun` runs the command after the options of Ray."""


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder with the stand-ins, first on PATH; what they did is in `log`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def file(tmp_path) -> Path:
    made = tmp_path / "digits.yaml"
    made.write_text(
        f"name: digits\nstorage: {tmp_path}/store\njobs:\n"
        "  data: {kind: load_dataset, source: digits}\n"
    )
    return made


def batch(script: Path, programs: Path, **more: str) -> subprocess.Popen[str]:
    """The script as Slurm starts it; the programs of the environment are the stand-ins."""
    text = script.read_text()
    script.write_text(text.replace(f"export PATH={Path(sys.executable).parent}:", "export PATH="))
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1"}
    return subprocess.Popen(
        ["bash", script], env={**os.environ, **slurm, **more}, text=True, stdout=subprocess.PIPE
    )


def test_the_script_asks_slurm_for_what_it_needs(slimctl, file, programs):
    words = ("--nodes", 1, "--gpus", 8, "--time", "90m", "--notice", "4m")
    ended = slimctl("launch", file, "--to", "slurm", *words, "--sbatch=--partition=gpu")
    assert (ended.code, ended.out) == (0, "digits.sbatch\n"), ended.err
    lines = Path("digits.sbatch").read_text().splitlines()
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=slimctl-digits", "--nodes=1", "--ntasks-per-node=1", "--exclusive",
        "--time=1:30:00", "--signal=B:USR1@240", "--requeue", "--open-mode=append",
        "--output=slimctl-digits-%j.log", "--gpus-per-node=8", "--partition=gpu",
    ]  # fmt: skip
    subprocess.run(["bash", "-n", "digits.sbatch"], check=True)


def test_the_script_submits_once_and_then_resumes_what_it_submitted(slimctl, file, programs):
    slimctl("launch", file, "--to", "slurm")
    for _ in range(2):
        assert batch(Path("digits.sbatch"), programs).wait(30) == 0
    said = Path("log").read_text().splitlines()
    assert [line.split()[1] for line in said] == ["submit", "resume", "resume"]
    assert said[0].startswith(
        f"slimctl submit {file} --storage {file.parent}/store --address here:"
    )
    assert all(line.startswith("slimctl resume r-1 ") for line in said[1:])
    assert "--detach --json" in said[0]


def test_a_run_that_fails_is_not_requeued(slimctl, file, programs):
    slimctl("launch", file, "--to", "slurm")
    assert batch(Path("digits.sbatch"), programs, ENDS="4").wait(30) == 4
    assert "requeue" not in Path("log").read_text()


def test_before_the_limit_the_run_makes_a_checkpoint_and_is_requeued(slimctl, file, programs):
    slimctl("launch", file, "--to", "slurm")
    job = batch(Path("digits.sbatch"), programs, STAYS="3")
    while "resume" not in (Path("log").read_text() if Path("log").exists() else ""):
        assert job.poll() is None
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=30)
    said = Path("log").read_text().splitlines()
    assert said[-2].startswith("slimctl cancel r-1 ")
    assert said[-2].endswith("--checkpoint")
    assert said[-1] == "requeue 17"
    assert "the time limit is near" in out


def test_submit_hands_the_script_over_and_says_how_the_run_ended(slimctl, file, programs):
    ended = slimctl("launch", file, "--to", "slurm", "--submit")
    assert ended.code == 4
    assert "Slurm job 17, log slimctl-digits-17.log" in ended.err
    assert "its run is not started" in ended.err


def test_no_secret_is_in_a_file(slimctl, file, programs, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret")
    slimctl("launch", file, "--to", "slurm")
    bucket = ("--storage", "s3://bucket/store", "--secret", "aws", "--image", "registry/slimctl:1")
    assert slimctl("launch", file, "--to", "kubernetes", *bucket).code == 0
    for made in ("digits.sbatch", "digits.rayjob.yaml"):
        assert "very-secret" not in Path(made).read_text()


RAY_JOB = {
    "entrypoint": str, "shutdownAfterJobFinishes": bool, "backoffLimit": int, "suspend": bool,
    "submitterConfig": dict, "rayClusterSpec": dict,
}  # fmt: skip
"""Fields of KubeRay's RayJob (ray.io/v1) that are used, and their types in its CRD."""
WORKERS = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
    "rayStartParams": dict, "template": dict,
}  # fmt: skip
"""The same of `workerGroupSpecs`."""


def test_a_ray_job_is_what_kuberay_takes(slimctl, file, programs):
    words = ("--nodes", 3, "--gpus", 2, "--memory", 64, "--queue", "team", "--claim", "disk")
    named = ("--image", "registry/slimctl:1", "--namespace", "ml", "--secret", "keys")
    ended = slimctl("launch", file, "--to", "kubernetes", *words, *named)
    assert ended.code == 0, ended.err
    config, job = YAML(typ="safe").load_all(Path("digits.rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"] == {
        "name": "slimctl-digits", "namespace": "ml",
        "labels": {"kueue.x-k8s.io/queue-name": "team"},
    }  # fmt: skip
    spec = job["spec"]
    assert {name: type(value) for name, value in spec.items()} == RAY_JOB
    assert (spec["backoffLimit"], spec["submitterConfig"]["backoffLimit"]) == (0, 0)
    assert "--storage /store " in spec["entrypoint"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert {name: type(value) for name, value in workers.items()} == WORKERS
    assert workers["replicas"] == 2
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (container,) = head["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert container["resources"]["limits"] == {
        "cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2",
    }  # fmt: skip
    assert container["securityContext"]["runAsNonRoot"]
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in head["volumes"]} == {"pipeline", "store"}
    inside = YAML(typ="safe").load(config["data"]["pipeline.yaml"])
    assert list(inside["jobs"]) == ["data"]


def test_a_cluster_file_names_the_machines(slimctl, file, programs):
    ended = slimctl("launch", file, "--to", "ray", "--host", "a", "--host", "b", "--user", "me")
    assert ended.code == 0, ended.err
    made = YAML(typ="safe").load(Path("digits.cluster.yaml").read_text())
    assert made["provider"] == {"type": "local", "head_ip": "a", "worker_ips": ["b"]}
    assert (made["auth"], made["max_workers"]) == ({"ssh_user": "me"}, 1)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("kubernetes", "--claim", "c"), "no container image is named"),
        (("kubernetes", "--image", "i"), "is a folder, which no pod has"),
        (("ray",), "no machine is named"),
        (("ray", "--host", "a", "--submit"), "is for slurm and kubernetes"),
        (("slurm", "--time", "soon"), "'soon' is no duration"),
        (("slurm", "--time", "2m", "--notice", "2m"), "not between 20 s and the limit"),
        (("slurm", "--set", "seed=1"), "does not reach the nodes"),
        (("slurm", "--nodes", "2"), "a folder that each node has of its own"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(slimctl, file, programs, words, what):
    ended = slimctl("launch", file, "--to", *words)
    assert ended.code == 2
    assert what in ended.err
    assert not list(Path().glob("digits.*.yaml")) + list(Path().glob("*.sbatch"))
