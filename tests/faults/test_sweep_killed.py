"""Parts of a search die by process number: what was tried is kept, and the same comes out."""

import os
import signal
import time
from pathlib import Path

import pytest
from builders import strangers_folder
from ray_processes import cluster_of, ended, note, processes, result_bytes, said, slimctl, until

from slimctl.jobs.base.artifacts import SweepReport
from slimctl.jobs.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]

SEARCH = """
name: search
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 300}
  flow: {kind: analytic_flow, data: data, bandwidth: 0.1}
  pairs: {kind: generate_pairs, flow: flow, count: 300, solver: {kind: euler, steps: 4}}
  widths:
    kind: sweep
    space: {width: {choice: [8, 12, 16, 24]}}
    jobs:
      student:
        kind: anneal_reflow
        pairs: pairs
        network: {kind: song_unet, channels: "${width}", channel_multipliers: [1], blocks: 1,
                  attention_resolutions: [], middle_attention: false}
        steps: 250
        batch_size: 16
        checkpoint_s: 1
        shared: true
    minimize: student.parameters
    parallel: 2
"""


def results(storage: Path) -> tuple[dict[str, bytes], SweepReport]:
    store = Store(str(storage))
    artifact = next(iter(said(storage, "run_started"))).details["jobs"]["widths"]["artifact"]
    return result_bytes(storage), store.load(artifact, SweepReport)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("files") / "search.yaml"
    made.write_text(SEARCH)
    return made


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(2) as made:
        yield made


@pytest.fixture(scope="module")
def expected(cluster, file, tmp_path_factory) -> tuple[dict[str, bytes], SweepReport]:
    storage = tmp_path_factory.mktemp("calm")
    folder = strangers_folder(tmp_path_factory.mktemp("stranger"), "torch", "mlflow")
    words = ["--address", cluster.address, "--storage", storage]
    code, _, err = ended(slimctl("submit", file, *words, cwd=folder))
    assert code == 0, err
    return results(storage)


@pytest.mark.parametrize("title", ["ray::JobActor", "ray::Supervisor"])
def test_a_killed_search_goes_on(cluster, file, tmp_path, expected, title):
    storage = tmp_path / "store"
    words = ["--address", cluster.address, "--storage", storage]
    code, _, err = ended(slimctl("submit", file, *words, "--detach"))
    assert code == 0, err

    def finished() -> list[Path]:
        return sorted(storage.glob("artifacts/anneal_reflow-*/artifact.json"))

    kept = until(finished)
    made = {one: one.read_bytes() for one in kept}
    killed = time.time()
    os.kill(until(lambda: processes(title))[-1], signal.SIGKILL)
    code, out, err = ended(slimctl("logs", "-f", "--storage", storage))
    assert code == 0, out + err
    note(f"sweep, {title}", seconds=time.time() - killed)
    found, report = results(storage)
    assert found == expected[0]
    assert report.trials == expected[1].trials
    assert report.chosen == expected[1].chosen == 0
    assert all(one.read_bytes() == data for one, data in made.items()), "nothing is made twice"
