"""Times a training step under Ray Train beside the same step in a process without Ray.

Both run the project's loop from the first step to the last, one worker with one thread, in turn; a
step is the time between two calls of the loss, after the first ones.

    python -m benchmarks.ray_train [--steps 120] [--batch 16] [--rounds 5] [--json]
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import show, this_machine
from benchmarks.step_times import Timed, medians, parser, train_in_a_process
from benchmarks.teacher import COUNT, IMAGE, NETWORK, FlowOnImages, LoopSettings, drawn_images
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.ray_train import TrainTask, train_on_ray, train_worker


def _settings(steps: int, batch: int) -> LoopSettings:
    return LoopSettings(steps=steps, batch_size=batch, workers=1, threads=1, learning_rate=1e-3)


def _timed(folder: Path, steps: int) -> Timed:
    return Timed(_objective, folder, steps)


def _objective() -> FlowOnImages:
    return FlowOnImages(drawn_images(COUNT, IMAGE), IMAGE)


def train_bare(folder: Path, steps: int, batch: int) -> None:
    """The training in this process."""
    context = _context(folder)
    train_worker(
        TrainTask(
            context.job, context.artifact_id, _settings(steps, batch), NETWORK, IMAGE,
            _timed(folder, steps), None, context.store, context.reporter, 1,
        )
    )  # fmt: skip


def _context(folder: Path) -> JobContext:
    return JobContext("step", "train_flow-0", Store(str(folder)), {}, folder, Cluster(2))


def _in_a_process(folder: Path, steps: int, batch: int) -> dict[str, float]:
    train_in_a_process("benchmarks.ray_train", "--bare", str(folder), steps=steps, batch=batch)
    return medians(folder)


def _under_ray(folder: Path, steps: int, batch: int) -> dict[str, float]:
    train_on_ray(_context(folder), _settings(steps, batch), NETWORK, IMAGE, _timed(folder, steps))
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
    options = parser(__doc__ or "", steps=120, rounds=5)
    options.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    asked = options.parse_args(arguments)
    if asked.bare is not None:
        train_bare(asked.bare, asked.steps, asked.batch)
        return
    found = this_machine(1).describe() | {"torch": torch.__version__}
    found |= compare(asked.steps, asked.batch, asked.rounds)
    show(found, as_json=asked.json)


if __name__ == "__main__":
    main()
