"""Published checkpoints as teachers of a whole pipeline, on a real private Ray."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
FILES = {
    "slimflow-ncsnpp-tiny.pth": "{kind: heun, steps: 4}",
    "slimflow-adm-tiny.pth": "{kind: rk45, tolerance: 1e-2}",
    "edm-ddpmpp-tiny.pkl": "{kind: edm_heun, steps: 5}",
}
PIPELINE = """
name: imported
seed: 1
jobs:
  teacher: {{kind: import_teacher, path: {path}}}
  pairs: {{kind: generate_pairs, flow: teacher, count: 16, shard_size: 8, solver: {solver}}}
  student:
    kind: distill
    pairs: pairs
    network: {{kind: song_unet, channels: 8, channel_multipliers: [1, 1], blocks: 1}}
    two_step_weight: 0
    steps: 4
    batch_size: 8
    workers: 1
"""


@pytest.mark.parametrize("file", FILES)
def test_a_published_teacher_makes_pairs_and_a_student(file, test_data, tmp_path):
    pipeline = tmp_path / "imported.yaml"
    path = test_data / "parity" / file
    pipeline.write_text(PIPELINE.format(path=path, solver=FILES[file]))
    storage = tmp_path / "store"
    command = [sys.executable, "-m", "slimctl"]
    words = ["submit", str(pipeline), "--storage", str(storage), "--json"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["jobs"]
    assert {job["state"] for job in jobs.values()} == {"done"}
    teacher = jobs["teacher"]["artifact"]
    assert (teacher["image"]["size"], teacher["image"]["channels"]) == (32, 3)
    made = tmp_path / "samples.npz"
    words = ["sample", "imported/student", "-n", "3", "-o", str(made), "--storage", str(storage)]
    subprocess.run([*command, *words], check=True, capture_output=True)
    assert np.load(made)["images"].shape == (3, 32, 32, 3)
