"""Twenty runs at once on a cluster of four CPUs, and what their supervisors hold in memory."""

import pytest
from ray_processes import cluster_of, ended, note, processes, rss_mib, slimctl, until

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import read_status, run_ids

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]

SHORT = """
name: short
seed: {seed}
jobs:
  data: {{kind: load_dataset, source: digits, max_images: 100}}
  teacher: {{kind: analytic_flow, data: data, bandwidth: 0.05}}
  pairs:
    {{kind: generate_pairs, flow: teacher, count: 20, shard_size: 10, actors: 1,
      solver: {{kind: euler, steps: 4}}}}
"""
RUNS = 20


def test_twenty_runs_at_once_all_finish(tmp_path):
    storage = tmp_path / "store"
    with cluster_of(4, first=42) as cluster:
        programs = []
        for seed in range(RUNS):
            file = tmp_path / f"{seed}.yaml"
            file.write_text(SHORT.format(seed=seed))
            words = ["--address", cluster.address, "--storage", storage, "--detach"]
            programs.append(slimctl("submit", file, *words))
        for program in programs:
            code, _, err = ended(program, 500)
            assert code == 0, err
        supervisors = [rss_mib(pid) for pid in processes("ray::Supervisor")]
        actors = [rss_mib(pid) for pid in processes("ray::JobActor")]
        note("load", supervisor_mib=max(supervisors, default=0), actor_mib=max(actors, default=0))
        assert max(supervisors, default=0.0) < 300
        blobs = Store(str(storage)).blobs
        until(lambda: {read_status(blobs, run).state for run in run_ids(blobs)} == {"done"}, 600)
        assert len(run_ids(blobs)) == RUNS
        until(lambda: not processes("ray::Supervisor"))  # each leaves when its run is over
        assert processes("ray::JobActor") == []
