"""What inductor makes of a training, for real: the same losses within rounding, on the CPU.

In a process of its own: the shape checks that pytest switches on cannot be traced.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import json, sys, torch
from pathlib import Path
from benchmarks.gpu_session.shelf import fill_shelf, trainings
from benchmarks.gpu_session.sizes import Case
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models.engine import Engine
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

folder, BATCH, STEPS = Path(sys.argv[1]), 4, 3
network = SongUNetSpec(channels=4, channel_multipliers=(1,), blocks=1, attention_resolutions=(),
                       middle_attention=False)
case = Case("small", network, ImageShape(channels=3, size=8))
shelf, found = fill_shelf(folder / "shelf", case, 16), {}
for way in ("eager", "compiled"):
    torch.manual_seed(0)
    spec, objective = trainings(shelf, STEPS, BATCH)["distill"]
    trainer = Trainer(
        spec, network.build(case.image), objective, Share(0, BATCH, BATCH, torch.device("cpu")),
        LocalBlobs(folder / way), lambda step, metrics: None,
        engine=Engine(tf32=True, compiled=way == "compiled"),
    )
    found[way] = [float(loss) for loss in trainer.steps()]
found["graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_losses_are_the_eager_ones_within_rounding(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout.splitlines()[-1])
    assert found["graphs"] > 0
    assert found["compiled"] == pytest.approx(found["eager"], rel=1e-5)
