"""Times of the steps of whole trainings, in processes of their own.

A step is the time between two calls of the loss, after the first ones.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share

WARM = 20
"""Steps left out at the start."""
TIMES = "times.json"


class Timed(Objective):
    """An objective that notes when it is called.

    Args:
        make: makes the objective to time, in the process that trains.
        folder: where the times go at the last step.
        steps: of the training.
    """

    def __init__(self, make: Callable[[], Objective], folder: Path, steps: int) -> None:
        self._make, self._folder, self._steps = make, folder, steps
        self._calls: list[tuple[float, float]] = []

    def prepare(self, share: Share) -> None:
        self._inner = self._make()
        self._inner.prepare(share)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        self._calls.append((time.perf_counter(), time.process_time()))
        if step == self._steps - 1:
            (self._folder / TIMES).write_text(json.dumps(self._calls))
        return self._inner.loss(network, step, part)


def medians(folder: Path) -> dict[str, float]:
    """Median of a step: wall time, and CPU time of the whole process, s."""
    calls = json.loads((folder / TIMES).read_text())[WARM:]
    names = ("wall_s", "cpu_s")
    return {
        name: statistics.median(b[column] - a[column] for a, b in itertools.pairwise(calls))
        for column, name in enumerate(names)
    }


def parser(description: str, steps: int, rounds: int) -> argparse.ArgumentParser:
    """The options that these benchmarks share, with the defaults that they differ in."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--steps", type=int, default=steps)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=rounds, help="trainings of each kind")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def train_in_a_process(module: str, *how: str, steps: int, batch: int) -> None:
    """Runs a benchmark's module again for one training.

    Args:
        module: `benchmarks.<name>`.
        how: the option that asks for one training, and its values.
        steps: of the training.
        batch: images in a step.
    """
    command = [sys.executable, "-m", module, *how]
    subprocess.run([*command, "--steps", str(steps), "--batch", str(batch)], check=True)
