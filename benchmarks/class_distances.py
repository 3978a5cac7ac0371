"""Figures of each class of a conditional model from features of 2048 numbers, as `evaluate` takes.

Features are random; real images and samples have as many rows. Distances, floors, precision and
recall are taken, of all classes. On one thread the time is CPU time.

    python -m benchmarks.class_distances [--classes 1000] [--rows 50] [--threads 1] [--json]
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.measure import this_machine
from slimctl.jobs.evaluation.subsets import subset_qualities

WIDTH = 2048
"""Features of Inception."""
NEIGHBOURS = 5


def figures(classes: int, rows: int, threads: int) -> dict[str, Any]:
    """Seconds for all classes, and what was measured on."""
    machine = this_machine(threads, "cpu")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat(rows)
    tables = [
        (torch.randn(classes * rows, WIDTH, generator=generator).relu(), labels) for _ in range(2)
    ]
    subsets = [(label,) for label in range(classes)]
    found: list[object] = []
    seconds = machine.seconds(
        lambda: found.extend(subset_qualities(tables[0], tables[1], subsets, NEIGHBOURS))
    )
    measured = {"classes": len(found), "rows": rows, "seconds": seconds}
    return measured | machine.describe()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--classes", type=int, default=1000)
    options.add_argument(
        "--rows", type=int, default=50, help="real images, and samples, of a class"
    )
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--json", action="store_true", help="print one JSON object")
    asked = options.parse_args(arguments)
    found = figures(asked.classes, asked.rows, asked.threads)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    print(", ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
