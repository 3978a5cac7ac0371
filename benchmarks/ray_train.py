"""Times a training step under Ray Train beside the same step in a process without Ray.

Both run the project's loop from the first step to the last, one worker with one thread, in turn; a
step is the time between two calls of the loss, after the first ones.

    python -m benchmarks.ray_train [--steps 120] [--batch 16] [--rounds 5] [--json]
"""

import argparse
import itertools
import json
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
from benchmarks.teacher import COUNT, IMAGE, NETWORK, FlowOnImages, LoopSettings, drawn_images
from jobs.base.cluster import Cluster
from jobs.base.context import JobContext
from jobs.storage.store import Store
from jobs.training.objective import Objective, Share
from jobs.training.ray_train import TrainTask, train_on_ray, train_worker

WARM = 20
"""Steps left out at the start."""
TIMES = "times.json"


class Timed(Objective):
    """Flow matching on drawn images that notes when it is called.

    Args:
        folder: where the times go at the last step.
        steps: of the training.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps
        self._calls: list[tuple[float, float]] = []

    def prepare(self, share: Share) -> None:
        self._inner = FlowOnImages(drawn_images(COUNT, IMAGE), IMAGE)
        self._inner.prepare(share)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        self._calls.append((time.perf_counter(), time.process_time()))
        if step == self._steps - 1:
            (self._folder / TIMES).write_text(json.dumps(self._calls))
        return self._inner.loss(network, step)


def medians(folder: Path) -> dict[str, float]:
    """Median of a step: wall time, and CPU time of the whole process, s."""
    calls = json.loads((folder / TIMES).read_text())[WARM:]
    names = ("wall_s", "cpu_s")
    return {
        name: statistics.median(b[column] - a[column] for a, b in itertools.pairwise(calls))
        for column, name in enumerate(names)
    }


def _settings(steps: int, batch: int) -> LoopSettings:
    return LoopSettings(steps=steps, batch_size=batch, workers=1, threads=1, learning_rate=1e-3)


def train_bare(folder: Path, steps: int, batch: int) -> None:
    """The training in this process."""
    context = _context(folder)
    train_worker(
        TrainTask(
            context.job, context.artifact_id, _settings(steps, batch), NETWORK, IMAGE,
            Timed(folder, steps), None, context.store, context.reporter, 1,
        )
    )  # fmt: skip


def _context(folder: Path) -> JobContext:
    return JobContext("step", "train_flow-0", Store(str(folder)), {}, folder, Cluster(2, 0, 2))


def _in_a_process(folder: Path, steps: int, batch: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.ray_train", "--bare", str(folder)]
    command += ["--steps", str(steps), "--batch", str(batch)]
    subprocess.run(command, check=True)
    return medians(folder)


def _under_ray(folder: Path, steps: int, batch: int) -> dict[str, float]:
    train_on_ray(_context(folder), _settings(steps, batch), NETWORK, IMAGE, Timed(folder, steps))
    return medians(folder)


def compare(steps: int, batch: int, rounds: int) -> dict[str, Any]:
    """Both in turn, each in a fresh process; medians and the median ratio of neighbours."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    bare: list[dict[str, float]] = []
    under: list[dict[str, float]] = []
    try:
        for _ in range(rounds):
            for found, measure in ((bare, _in_a_process), (under, _under_ray)):
                with tempfile.TemporaryDirectory(prefix="slimctl-benchmark-") as folder:
                    found.append(measure(Path(folder), steps, batch))
    finally:
        ray.shutdown()
    return {
        name: {
            "bare": statistics.median(one[name] for one in bare),
            "ray_train": statistics.median(one[name] for one in under),
            "ratio": statistics.median(b[name] / a[name] for a, b in zip(bare, under, strict=True)),
        }
        for name in ("wall_s", "cpu_s")
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", type=int, default=120)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=5, help="trainings of each kind")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.bare is not None:
        train_bare(asked.bare, asked.steps, asked.batch)
        return
    found = this_machine(1).describe() | {"torch": torch.__version__}
    found |= compare(asked.steps, asked.batch, asked.rounds)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
