"""Settling whether to compile: who measures, on what, how often, and that the result stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training import engine as settling
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.engine import recorded_engine, settle_engine
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, Share
from slimctl.models import compilation
from slimctl.models.engine import Engine, Runner
from slimctl.models.spec import ImageShape

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
IMAGE = ImageShape(channels=1, size=2)
BATCH, STEPS = 6, 5


@pytest.fixture
def work(store):
    """Work folders by name."""
    return lambda name: store.work(f"train_flow-{name}")


class Calls:
    """A rehearsal that notes which way it was taken."""

    def __init__(self):
        self.ways = []

    def __call__(self, compiled):
        return lambda: self.ways.append(compiled)


@pytest.fixture
def compiling(monkeypatch):
    """As on a GPU, where an eager step takes two seconds and a compiled one takes one."""
    now = [0.0]
    monkeypatch.setattr(settling, "compiles", lambda device: True)
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: now[0])

    class Timed(Calls):
        def __call__(self, compiled):
            def step():
                self.ways.append(compiled)
                now[0] += 1.0 if compiled else 2.0

            return step

    return Timed()


def settle(folder, rehearse, *, rank=0, steps=10**6, chosen=None):
    return settle_engine(folder, chosen or Engine(), CPU, rank, steps, rehearse)


def test_a_cpu_compiles_nothing_and_times_nothing(work):
    calls = Calls()
    assert settle(work("a"), calls) == Engine()
    assert calls.ways == []
    assert recorded_engine(work("a")).model_dump(exclude_none=True) == Engine().model_dump()


def test_a_gpu_times_once_and_a_resumed_training_does_not(work, compiling):
    chosen = Engine(precision="bfloat16", tf32=True)
    settled = settle(work("a"), compiling, chosen=chosen)
    assert settled == chosen.model_copy(update={"compiled": True})
    assert {*compiling.ways} == {False, True}
    found = recorded_engine(work("a"))
    assert (found.eager_s, found.compiled_s, found.compiling_s) == (2.0, 1.0, 1.0)
    asked = len(compiling.ways)
    assert settle(work("a"), compiling, chosen=chosen, steps=3) == settled
    assert len(compiling.ways) == asked


def test_another_device_settles_anew(work, compiling):
    settle(work("a"), compiling, chosen=Engine(tf32=True))
    asked = len(compiling.ways)
    assert settle(work("a"), compiling, chosen=Engine()).tf32 is False
    assert len(compiling.ways) == 2 * asked


@pytest.mark.parametrize(("steps", "tried"), [(89, False), (90, True)])
def test_less_than_three_minutes_are_not_worth_compiling_for(work, compiling, steps, tried):
    """Of two seconds each; what is measured all the same is kept, so that a resume asks no more."""
    assert settle(work("a"), compiling, steps=steps).compiled is tried
    assert (True in compiling.ways) is tried
    asked = len(compiling.ways)
    settle(work("a"), compiling, steps=steps)
    assert len(compiling.ways) == asked


def test_only_the_first_worker_measures_and_writes(work, compiling):
    settle(work("a"), compiling, rank=1)
    assert compiling.ways == []
    assert not work("a").exists(settling.RECORD)


class Regression(Objective):
    """Learns to negate noise, with help of a frozen network; twice the batch at once."""

    def prepare(self, share):
        self.draws = Draws(2, share, IMAGE)
        torch.manual_seed(1)
        self.guide = Runner(nn.Linear(4, 4).requires_grad_(requires_grad=False), Engine())

    def loss(self, network, step, part=WHOLE):
        x = torch.cat([self.draws.noise(step), self.draws.noise(step, 5)])
        return functional.mse_loss(network(x), self.guide(x.flatten(1)))


class Student(nn.Sequential):
    """Notes how many images it was called with, and whether as it is or as a copy."""

    def __init__(self):
        hidden = [nn.BatchNorm1d(4), nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 4)]
        super().__init__(nn.Flatten(), *hidden)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)


def trainer(folder, **changes):
    torch.manual_seed(0)
    network = {"kind": "song_unet", "channels": 4}
    spec = TrainFlow(data="data", network=network, steps=STEPS, batch_size=BATCH, seed=1)
    share = Share(0, BATCH, BATCH, CPU)
    done = Trainer(
        spec, Student(), Regression(), share, folder, lambda step, metrics: None,
        engine=Engine(tf32=True), **changes,
    )  # fmt: skip
    done.run()
    return done


def test_what_is_rehearsed_leaves_no_trace_and_has_the_true_batch(work, monkeypatch):
    """Weights, running statistics and dropout are those of a training that rehearsed nothing."""
    copies = []
    monkeypatch.setattr(settling, "compiles", lambda device: True)
    monkeypatch.setattr(compilation, "WORTH_S", 0.0)
    monkeypatch.setattr(
        torch, "compile", lambda network, dynamic: copies.append(network) or network
    )
    monkeypatch.setattr(compilation.CompileTimes, "pays", lambda times, steps: True)
    plain = trainer(work("plain"))
    settled = trainer(work("settled"), settle=True)
    first, second = (load_checkpoint(work(name)) for name in ("plain", "settled"))
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    assert settled.engine.compiled
    assert plain.network.seen == settled.network.seen == [2 * BATCH] * STEPS
    students = [each for each in copies if isinstance(each, Student)]
    assert len(students) == 2  # a copy, then the network itself
    assert set(students[0].seen) == {2 * BATCH}
    assert students[1] is settled.network
    assert settled.objective.guide.network in copies


PROGRAM = """
import sys, torch, torch._dynamo
from pathlib import Path
from benchmarks.teacher import FlowOnImages, LoopSettings, drawn_images
from gloo import on_gloo
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training import engine as settling
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models import compilation
from slimctl.models.engine import Engine
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=4 if sys.argv[2] == "counted" else 8)
BATCH, STEPS, WORLD = 8, 6, 2
COUNTED = sys.argv[2] == "counted"
UNET = SongUNetSpec(channels=4, channel_multipliers=(1,), blocks=1, attention_resolutions=(),
                    middle_attention=False, dropout=0.1)
SPEC = MLPSpec(width=512, layers=3) if COUNTED else UNET  # 1 MB a layer: DDP cuts there

def train(rank, folder, steps):
    graphs = []
    if COUNTED:
        compile = torch.compile
        def counting(graph, inputs):
            graphs.append(len(graph.graph.nodes))
            return graph.forward
        torch.compile = lambda network, dynamic: compile(network, dynamic=dynamic, backend=counting)
    settling.compiles = lambda device: True
    compilation.WORTH_S, compilation.WARM_UP, compilation.TIMED = 0.0, 1, 1
    compilation.CompileTimes.pays = lambda times, steps: True
    torch.manual_seed(0)
    trainer = Trainer(
        LoopSettings(steps=steps, batch_size=BATCH, learning_rate=1e-3), SPEC.build(IMAGE),
        FlowOnImages(drawn_images(64, IMAGE), IMAGE),
        Share(rank * BATCH // WORLD, BATCH // WORLD, BATCH, torch.device("cpu")),
        LocalBlobs(folder), lambda step, metrics: None, rank, WORLD, Engine(tf32=True), settle=True,
    )
    settle = trainer._compile
    def settled(model):
        settle(model)
        graphs.clear()
    trainer._compile = settled
    trainer.run()
    assert trainer.engine.compiled
    (folder / f"graphs-{rank}-{steps}").write_text(str(graphs))

import gloo
gloo.PATIENCE_S = 600.0
for name, steps in (("whole", STEPS), ("halves", STEPS // 2), ("halves", STEPS)):
    folder = Path(sys.argv[1]) / name
    folder.mkdir(exist_ok=True)
    said = on_gloo(folder, lambda rank: train(rank, folder, steps), WORLD)
    assert said == [""] * WORLD, said
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", ["counted", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_resumed_attempt_compiles_as_the_first_one_did(tmp_path, how):
    """Of two workers, of which the first one measures: the same programs, and the same bits."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), how]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    finished = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert finished.returncode == 0, finished.stderr
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    first, second = load_checkpoint(LocalBlobs(whole)), load_checkpoint(LocalBlobs(halves))
    assert first.step == second.step == 6
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)
    if how == "counted":
        for rank in range(2):
            once = (whole / f"graphs-{rank}-6").read_text()
            assert once != "[]"
            assert (halves / f"graphs-{rank}-3").read_text() == once
            assert (halves / f"graphs-{rank}-6").read_text() == once
