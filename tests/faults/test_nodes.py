"""Nodes that come, and a node that does not see the storage."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from here import SMALL, run_here
from ray_processes import (
    cluster_of,
    ended,
    has_progress,
    processes,
    result_bytes,
    slimctl,
    told,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]

GROWING = """
name: growing
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 300}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 2000, shard_size: 50, actors: {min: 1, max: 3},
     solver: {kind: euler, steps: 200}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 2], blocks: 1}
    steps: 3000
    batch_size: 32
    workers: {min: 1, max: 2}
    log_every: 10
    checkpoint_s: 2
"""


def test_workers_and_actors_follow_the_cluster(tmp_path):
    pairs_only = GROWING.split("  student:")[0]
    assert set(run_here(tmp_path / "calm", pairs_only).values()) == {""}
    file = tmp_path / "growing.yaml"
    file.write_text(GROWING)
    storage = tmp_path / "store"
    with cluster_of(1, first=62) as cluster:
        words = ["--address", cluster.address, "--storage", storage]
        code, _, err = ended(slimctl("submit", file, *words, "--detach"))
        assert code == 0, err
        until(has_progress(storage, "pairs"))
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.63")
        until(lambda: told(storage, "job_done", "pairs"))
        until(has_progress(storage, "student", 10))
        until(lambda: len(processes("ray::RayTrainWorker")) == 2, 120)
        ended(slimctl("cancel", "--storage", storage))
    expected = result_bytes(tmp_path / "calm")
    made = result_bytes(storage)
    assert expected == {name: made[name] for name in expected}


@pytest.fixture
def blind_node(tmp_path):
    """Starts a raylet that sees another disk in the storage's place."""
    started: list[subprocess.Popen] = []

    def start(cluster, hidden: Path) -> None:
        if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
            pytest.skip("this machine gives no mount namespaces")
        ray = Path(sys.executable).with_name("ray")
        command = (
            f"mount -t tmpfs tmpfs {hidden} && exec {ray} start --address {cluster.address} "
            "--node-ip-address 127.0.0.73 --num-cpus 1 --block"
        )
        started.append(
            subprocess.Popen(
                ["unshare", "-m", "sh", "-c", command], start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)  # it ends its raylet with itself
        process.wait(30)


def test_a_node_that_does_not_see_the_storage_is_named(tmp_path, blind_node):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    storage = tmp_path / "disk" / "store"
    storage.mkdir(parents=True)
    with cluster_of(1, first=72) as cluster:
        blind_node(cluster, storage.parent)
        words = ["--address", cluster.address, "--storage", storage]

        def doctor_sees_it() -> bool:
            return "127.0.0.73" in ended(slimctl("doctor", *words))[1]

        until(doctor_sees_it, 90)
        code, out, _ = ended(slimctl("doctor", *words))
        assert code == 2
        assert "shared storage: not seen from 127.0.0.73 (FileNotFoundError" in out
        code, out, err = ended(slimctl("submit", file, *words))
        assert (code, out) == (2, "")
        assert "cannot be seen from 1 node(s) of the cluster: 127.0.0.73" in err
        assert "s3://" in err
