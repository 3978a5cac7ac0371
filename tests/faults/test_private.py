"""What is killed on this machine, under a private Ray: quick enough for every day."""

import signal
import time
from pathlib import Path

import pytest
from here import run_here
from ray_processes import (
    ended,
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
from slimctl.orchestrator.runs.runs import run_ids

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]
CANARY = "canary-5f0c"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")

FEW = """
name: few
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 300}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 2000, shard_size: 50, actors: 1,
     solver: {kind: euler, steps: 200}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 4, channel_multipliers: [1], blocks: 1}
    steps: 300
    batch_size: 16
    workers: 1
    log_every: 5
    checkpoint_s: 0.5
"""


def test_one_run_survives_everything(tmp_path, monkeypatch):
    """A pair actor, the supervisor and the program, with all that trains, are killed in turn.

    The end is that of a run that nothing disturbed, and no secret of the environment is kept.
    """
    assert set(run_here(tmp_path / "calm", FEW).values()) == {""}
    expected = result_bytes(tmp_path / "calm")
    for name in SECRETS:
        monkeypatch.setenv(name, CANARY)
    file = tmp_path / "few.yaml"
    file.write_text(FEW)
    storage = tmp_path / "store"
    program = slimctl("submit", file, "--storage", storage)
    kill("ray::PairActor")
    kill("ray::Supervisor")
    until(has_progress(storage, "student", 50))
    note("memory", supervisor=rss_mib(processes("ray::Supervisor")[0]))
    assert rss_mib(processes("ray::Supervisor")[0]) < 300
    program.send_signal(signal.SIGKILL)
    program.communicate()
    until(lambda: not processes("ray::JobActor"))
    started = time.time()
    code, out, err = ended(slimctl("resume", "--storage", storage))
    assert code == 0, err
    first = next(e for e in said(storage, "progress", "student") if e.time > started)
    note("slimctl, private", seconds=first.time - started, step=first.details["done"])
    assert first.details["done"] > 5, "it went on from a checkpoint"
    assert result_bytes(storage) == expected
    assert len(run_ids(Store(str(storage)).blobs)) == 1
    no_canary(storage, out + err)


def no_canary(storage: Path, said: str) -> None:
    assert CANARY not in said
    for path in storage.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path
