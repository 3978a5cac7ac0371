"""What dies, by process number, on a cluster of three nodes; and what becomes of the run."""

import contextlib
import itertools
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from here import run_here
from ray_processes import (
    cluster_of,
    ended,
    events_of,
    has_progress,
    kill,
    note,
    processes,
    result_bytes,
    rss_mib,
    said,
    slimctl,
    until,
)

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import read_status, run_ids

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]

LONG = """
name: long
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 300}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 800, shard_size: 50,
     solver: {kind: euler, steps: 150}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 2], blocks: 1}
    steps: 600
    batch_size: 32
    workers: 1
    log_every: 10
    checkpoint_s: 1
"""
ON_RAY_TRAIN = ("--set", "jobs.student.shared=false")
GRACE_S = 20.0


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> dict[str, bytes]:
    """The results of a run that nothing disturbs, made without Ray."""
    storage = tmp_path_factory.mktemp("calm")
    assert set(run_here(storage, LONG).values()) == {""}
    return result_bytes(storage)


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(1, 1, 1) as made:
        yield made


@pytest.fixture
def file(tmp_path) -> Path:
    made = tmp_path / "long.yaml"
    made.write_text(LONG)
    return made


@pytest.fixture
def submitted(cluster, file, tmp_path, request):
    """A run on the cluster, detached; the parameter is further options."""
    storage = tmp_path / "store"
    words = ["--address", cluster.address, "--storage", storage, *getattr(request, "param", ())]
    code, out, err = ended(slimctl("submit", file, *words, "--detach"))
    assert code == 0, err
    yield storage
    if read_status(Store(str(storage)).blobs, out.strip()).ended is None:
        ended(slimctl("cancel", "--storage", storage))


def finish(storage: Path, expected: dict[str, bytes]) -> None:
    """Follows a run to its end from another process, and compares what it made."""
    code, out, err = ended(slimctl("logs", "-f", "--storage", storage))
    assert code == 0, err
    assert out.rstrip().endswith(": done"), out + err
    assert result_bytes(storage) == expected


def recovered(storage: Path, since: float, job: str) -> float:
    """Seconds from a death until the job reported progress again."""

    def fresh() -> list[float]:
        return [e.time for e in said(storage, "progress", job) if e.time > since + 0.5]

    return until(fresh)[0] - since


def test_slimctl_dies_and_the_run_goes_on(cluster, file, tmp_path, expected):
    storage = tmp_path / "store"
    program = slimctl("submit", file, "--address", cluster.address, "--storage", storage)
    until(has_progress(storage, "pairs"))
    program.kill()
    program.communicate()
    code, out, _ = ended(slimctl("status", run_ids(Store(str(storage)).blobs)[0],
                                 "--storage", storage))  # fmt: skip
    assert (code, out.splitlines()[0].endswith(": running")) == (0, True)
    finish(storage, expected)
    assert said(storage, "retry") == []


def test_the_supervisor_dies_and_no_step_is_lost(submitted, expected):
    until(has_progress(submitted, "student", 30))
    assert rss_mib(processes("ray::Supervisor")[0]) < 300
    killed = time.time()
    old = kill("ray::Supervisor")
    until(lambda: [pid for pid in processes("ray::Supervisor") if pid != old])
    until(lambda: len({e.number for e in said(submitted, "run_started")}) == 2)
    seconds = next(reversed(said(submitted, "run_started"))).time - killed
    note("supervisor", seconds=seconds, lost=0)
    assert seconds < 10
    finish(submitted, expected)
    assert said(submitted, "retry") == []
    done = [event.details["done"] for event in said(submitted, "progress", "student")]
    assert done == sorted(done), "the training never went back"


@pytest.mark.parametrize(
    ("submitted", "title"),
    [
        ((), "ray::JobActor"),
        (ON_RAY_TRAIN, "ray::JobActor"),
        (ON_RAY_TRAIN, "ray::TrainController"),
        (ON_RAY_TRAIN, "ray::RayTrainWorker"),
    ],
    indirect=["submitted"],
)
def test_a_part_of_a_training_dies(submitted, expected, title):
    until(has_progress(submitted, "student", 100))
    killed = time.time()
    kill(title)
    note(title, seconds=recovered(submitted, killed, "student"))
    finish(submitted, expected)
    done = [event.details["done"] for event in said(submitted, "progress", "student")]
    back = max((a - b for a, b in itertools.pairwise(done)), default=0)
    note(f"{title} steps lost", steps=back)
    assert back < 600, "it went on from a checkpoint"


@pytest.mark.parametrize(
    ("submitted", "title"),
    [((), "ray::JobActor.run"), (ON_RAY_TRAIN, "ray::RayTrainWorker")],
    indirect=["submitted"],
)
def test_a_training_that_is_asked_to_leave_loses_no_step(submitted, expected, title):
    """SIGTERM, and 20 s of grace before the end."""
    until(has_progress(submitted, "student", 100))
    asked = time.time()
    pid = processes(title)[0]
    os.kill(pid, signal.SIGTERM)
    (retry,) = until(lambda: said(submitted, "retry", "student"), GRACE_S)
    note(f"{title}, asked to leave", seconds=retry.time - asked)
    time.sleep(max(0.0, asked + GRACE_S - time.time()))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    finish(submitted, expected)
    assert len(said(submitted, "retry", "student")) == 1
    assert (retry.details["failure"], retry.details["pause_s"]) == ("Preempted", 0)
    done = [event.details["done"] for event in said(submitted, "progress", "student")]
    assert done == sorted(done), "the training never went back"


def test_pair_actors_die_again_and_again(submitted, expected):
    until(has_progress(submitted, "pairs"))

    def made() -> bool:
        return bool(said(submitted, "job_done", "pairs"))

    for _ in range(3):  # the last pairs may be made between two kills
        until(lambda: made() or processes("ray::PairActor"))
        for pid in [] if made() else processes("ray::PairActor")[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(1.0)
    finish(submitted, expected)


def test_a_cancelled_run_frees_its_devices_and_goes_on_later(cluster, submitted, expected):
    until(has_progress(submitted, "student", 100))
    started = time.time()
    code, _, err = ended(slimctl("cancel", "--storage", submitted))
    assert code == 0, err

    def busy() -> list[int]:
        return [*processes("ray::JobActor"), *processes("ray::RayTrainWorker")]

    until(lambda: not busy())
    note("cancel", seconds=time.time() - started)
    artifact = next(iter(said(submitted, "run_started"))).details["jobs"]["student"]["artifact"]
    assert Store(str(submitted)).work(artifact).exists("latest.json")

    def statuses() -> set[str]:
        with sqlite3.connect(submitted / "mlflow.db") as database:
            return {row[0] for row in database.execute("select status from runs")}

    until(lambda: statuses() <= {"KILLED", "FINISHED"} and "KILLED" in statuses())
    words = ["--storage", submitted, "--address", cluster.address]
    code, _, err = ended(slimctl("resume", *words))
    assert code == 0, err
    assert result_bytes(submitted) == expected
    done = [event.details["done"] for event in said(submitted, "progress", "student")]
    assert min(done[done.index(max(d for d in done if d < 600)) :] or [1]) > 10
    until(lambda: statuses() == {"FINISHED"})


def test_two_submits_at_once_make_each_artifact_once(cluster, file, tmp_path, expected):
    storage = tmp_path / "store"
    words = ["submit", file, "--address", cluster.address, "--storage", storage]
    programs = [slimctl(*words), slimctl(*words)]
    for program in programs:
        code, _, err = ended(program)
        assert code == 0, err
    assert result_bytes(storage) == expected
    assert len(run_ids(Store(str(storage)).blobs)) == 2


def test_a_node_of_three_dies(expected, file, tmp_path):
    with cluster_of(1, 1, 1, first=12) as cluster:
        storage = tmp_path / "store"
        words = ["--address", cluster.address, "--storage", storage]
        assert ended(slimctl("submit", file, *words, "--detach"))[0] == 0
        until(has_progress(storage, "pairs"))
        killed = time.time()
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        until(has_progress(storage, "student", 100))
        victim = [node for node in cluster.list_all_nodes() if not node.head][-1]
        cluster.remove_node(victim, allow_graceful=False)
        note("node", seconds=recovered(storage, killed, "student"))
        finish(storage, expected)


def test_the_head_dies_and_the_run_goes_on_elsewhere(expected, file, tmp_path):
    storage = tmp_path / "store"
    with cluster_of(1, 1, first=22) as first:
        words = ["--address", first.address, "--storage", storage]
        assert ended(slimctl("submit", file, *words, "--detach"))[0] == 0
        until(has_progress(storage, "student", 150))
        for process in first.head_node.live_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process[1].pid, signal.SIGKILL)
    before = len(events_of(storage))
    with cluster_of(2, first=32) as second:
        started = time.time()
        code, _, err = ended(slimctl("resume", "--storage", storage, "--address", second.address))
        assert code == 0, err
    assert result_bytes(storage) == expected
    later = events_of(storage)[before:]
    assert {e.job for e in later if e.name == "job_started"} == {"student"}
    first_step = next(e for e in later if e.name == "progress")
    assert first_step.details["done"] > 50, "it went on from a checkpoint"
    note("head", seconds=first_step.time - started)
