"""Trains on a pair set larger than memory should hold: a step's time and the memory it takes.

The same reflow on a set of that many random pairs left on disk, and in memory, in turn, each in
a process of its own. A step is the time between two calls of the loss; a set on disk is warm, since
writing it has just put it into the system's cache of files.

    python -m benchmarks.large_set [--pairs 1000000] [--steps 60] [--rounds 3] [--json]
"""

import argparse
import json
import resource
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import show, this_machine
from benchmarks.step_times import Timed, medians, parser, train_in_a_process
from benchmarks.teacher import NETWORK, LoopSettings
from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.objectives.anneal_reflow import AnnealedReflow
from slimctl.jobs.pairs.shards import Solved, write_shard
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training import sources
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.engine import choose_engine
from slimctl.models.flows.spec import LinearAnnealing
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=32)
SHARD = 4096
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


def train(folder: Path, steps: int, batch: int, *, in_memory: bool) -> dict[str, float]:
    """Trains in this process; median step and memory beside what the model takes."""
    machine = this_machine(1)
    if in_memory:
        sources.CPU_BYTES = 2**60
    pairs = PairSet.model_validate_json((folder / HANDLE).read_text())
    network = NETWORK.build(IMAGE)

    def reflow() -> AnnealedReflow:
        spec = AnnealReflow(
            pairs=Ref("pairs"),
            network=NETWORK,
            annealing=LinearAnnealing(length=steps),
            steps=steps,
            flip=False,
        )
        return AnnealedReflow(spec, Handles(Store(str(folder)), "", {"pairs": pairs}))

    with tempfile.TemporaryDirectory(prefix="slimctl-benchmark-") as work:
        trainer = Trainer(
            LoopSettings(steps=steps, batch_size=batch, checkpoint_s=1e9),
            network,
            Timed(reflow, Path(work), steps),
            Share(0, batch, batch, machine.device),
            LocalBlobs(work),
            lambda step, metrics: None,
            engine=choose_engine(machine.device, "training"),
        )
        before = peak_bytes()
        trainer.run()
        step_s = medians(Path(work))["wall_s"]
    return {
        "step_s": step_s,
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
                train_in_a_process(
                    "benchmarks.large_set", "--train", way, name, steps=steps, batch=batch
                )
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
    options = parser(__doc__ or "", steps=60, rounds=3)
    options.add_argument("--pairs", type=int, default=1_000_000)
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
    show(result, as_json=asked.json)


if __name__ == "__main__":
    main()
