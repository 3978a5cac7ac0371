"""Nodes that come while a run goes on."""

import pytest
from here import run_here
from ray_processes import (
    cluster_of,
    ended,
    has_progress,
    processes,
    result_bytes,
    said,
    slimctl,
    until,
)

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]

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
        until(lambda: said(storage, "job_done", "pairs"))
        until(has_progress(storage, "student", 10))
        until(lambda: len(processes("ray::RayTrainWorker")) == 2)
        ended(slimctl("cancel", "--storage", storage))
    expected = result_bytes(tmp_path / "calm")
    made = result_bytes(storage)
    assert expected == {name: made[name] for name in expected}
