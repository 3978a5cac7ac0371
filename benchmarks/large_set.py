"""Trains on a pair set larger than memory should hold: a step's time and the memory it takes.

The same reflow on a set of that many random pairs left on disk, and in memory, in turn, each in
a process of its own. A step is the time between two calls of the loss; a set on disk is warm, since
writing it has just put it into the system's cache of files.

    python -m benchmarks.large_set [--pairs 1000000] [--steps 60] [--rounds 3] [--json]
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import this_machine
from benchmarks.teacher import NETWORK, LoopSettings
from jobs.base.artifacts import PairSet
from jobs.pairs.shards import Solved, write_shard
from jobs.storage.blobs import LocalBlobs
from jobs.storage.store import Store
from jobs.training import pair_source
from jobs.training.loop import Trainer
from jobs.training.objective import Objective, Share
from jobs.training.objectives.annealed_reflow import AnnealedReflow
from models.counter_random import GENERATOR_VERSION
from models.engine import choose_engine
from models.flows.spec import LinearAnnealing, UniformTime
from models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=32)
SHARD = 4096
WARM = 20
HANDLE, FOUND = "pairs.json", "found.json"


def write_set(folder: Path, count: int) -> PairSet:
    """A set of random images: float16, 6 KiB a pair."""
    store = Store(str(folder))
    files = []
    for shard in range(-(-count // SHARD)):
        torch.manual_seed(shard)
        x1 = torch.rand(SHARD, IMAGE.channels, IMAGE.size, IMAGE.size).mul_(2).sub_(1).half()
        name = f"pairs/large/shard-{shard:06d}"
        files.append(write_shard(store, name, Solved(x1, 0.0, 0.0, "cpu")).file)
    return PairSet(
        id="large", image=IMAGE, count=count, shard_size=SHARD, seed=0,
        generator_version=GENERATOR_VERSION, nfe=1.0, shards=tuple(files),
    )  # fmt: skip


class Timed(Objective):
    """An objective that notes when it is called."""

    def __init__(self, inner: Objective) -> None:
        self._inner = inner
        self.calls: list[float] = []

    def prepare(self, share: Share) -> None:
        self._inner.prepare(share)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        self.calls.append(time.perf_counter())
        return self._inner.loss(network, step)


def train(folder: Path, steps: int, batch: int, *, in_memory: bool) -> dict[str, float]:
    """Trains in this process; median step and memory beside what the model takes."""
    machine = this_machine(1)
    if in_memory:
        pair_source.CPU_BYTES = 2**60
    pairs = PairSet.model_validate_json((folder / HANDLE).read_text())
    network = NETWORK.build(IMAGE)
    objective = Timed(
        AnnealedReflow(
            Store(str(folder)), pairs, 0, LinearAnnealing(length=steps), UniformTime(), flip=False
        )
    )
    with tempfile.TemporaryDirectory(prefix="slimctl-benchmark-") as work:
        trainer = Trainer(
            LoopSettings(steps=steps, batch_size=batch, checkpoint_s=1e9),
            network,
            objective,
            Share(0, batch, batch, machine.device),
            LocalBlobs(work),
            lambda step, metrics: None,
            engine=choose_engine(machine.device, "training"),
        )
        before = peak_bytes()
        trainer.run()
    calls = objective.calls[WARM:]
    return {
        "step_s": statistics.median(b - a for a, b in itertools.pairwise(calls)),
        "more_gib": (peak_bytes() - before) / 2**30,
        "peak_gib": peak_bytes() / 2**30,
    }


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(count: int, steps: int, batch: int, rounds: int) -> dict[str, Any]:
    """Writes the set, then trains on it both ways in turn."""
    found: dict[str, list[dict[str, float]]] = {"disk": [], "memory": []}
    with tempfile.TemporaryDirectory(prefix="slimctl-benchmark-") as name:
        folder = Path(name)
        (folder / HANDLE).write_text(write_set(folder, count).model_dump_json())
        for _ in range(rounds):
            for way, trained in found.items():
                command = [sys.executable, "-m", "benchmarks.large_set", "--train", way, name]
                command += ["--steps", str(steps), "--batch", str(batch)]
                subprocess.run(command, check=True)
                trained.append(json.loads((folder / FOUND).read_text()))
    result: dict[str, Any] = {
        way: {key: statistics.median(one[key] for one in trained) for key in trained[0]}
        for way, trained in found.items()
    }
    ratios = [
        disk["step_s"] / memory["step_s"]
        for disk, memory in zip(found["disk"], found["memory"], strict=True)
    ]
    return result | {"pairs": count, "batch": batch, "step_ratio": statistics.median(ratios)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, default=1_000_000)
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3, help="trainings of each kind")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--train", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.train is not None:
        way, folder = asked.train[0], Path(asked.train[1])
        found = train(folder, asked.steps, asked.batch, in_memory=way == "memory")
        (folder / FOUND).write_text(json.dumps(found))
        return
    result = this_machine(1).describe() | compare(
        asked.pairs, asked.steps, asked.batch, asked.rounds
    )
    if asked.json:
        print(json.dumps(result, indent=1))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
