"""Times the orchestrator: planning 10 000 jobs, 100 jobs that do next to nothing on local Ray.

python -m benchmarks.orchestrator [--jobs 10000] [--ray] [--json]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SMALL_PIXELS = 4


def pipeline_text(jobs: int, images: Path, storage: Path) -> str:
    """A pipeline file of that many jobs: one data set, then flows and pairs in turn."""
    lines = [
        "name: many", f"storage: {storage}", "tracking: null", "jobs:",
        f"  data: {{kind: load_dataset, source: {images}}}",
    ]  # fmt: skip
    for number in range((jobs - 1) // 2):
        lines.append(
            f"  flow_{number}: {{kind: analytic_flow, data: data, bandwidth: 0.{number:05d}1}}"
        )
        lines.append(f"  pairs_{number}: {{kind: generate_pairs, flow: flow_{number}, count: 10}}")
    return "\n".join(lines) + "\n"


def noop_text(jobs: int, images: Path, storage: Path) -> str:
    """That many jobs that need nothing of each other and take no time."""
    lines = ["name: noops", f"storage: {storage}", "tracking: null", "jobs:"]
    lines += [
        f"  data_{number}: {{kind: load_dataset, source: {images}, size: {number + 2}}}"
        for number in range(jobs)
    ]
    return "\n".join(lines) + "\n"


def measure_planning(jobs: int, folder: Path) -> dict[str, float]:
    """Seconds to read and check a file, and to plan what was read."""
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline.pipeline import load_pipeline, resolve
    from slimctl.orchestrator.planning.graph import Graph
    from slimctl.orchestrator.planning.plan import make_plan

    images = some_images(folder)
    file = folder / "many.yaml"
    file.write_text(pipeline_text(jobs, images, folder / "store"))
    started = time.perf_counter(), time.process_time()
    pipeline = load_pipeline(file).pipeline
    loaded = time.perf_counter(), time.process_time()
    resolved = resolve(pipeline)
    plan = make_plan(resolved, Graph.of(resolved), Store(resolved.storage))
    done = time.perf_counter(), time.process_time()
    return {
        "jobs": len(plan.jobs),
        "read_s": loaded[0] - started[0],
        "read_cpu_s": loaded[1] - started[1],
        "plan_s": done[0] - loaded[0],
        "plan_cpu_s": done[1] - loaded[1],
    }


def measure_noops(jobs: int, folder: Path) -> dict[str, float]:
    """Seconds from submission to the end, with starting and ending a private local Ray."""
    from slimctl import load_pipeline, submit

    file = folder / "noops.yaml"
    file.write_text(noop_text(jobs, some_images(folder), folder / "store"))
    started = time.perf_counter()
    result = submit(load_pipeline(file).pipeline)
    return {
        "jobs": jobs,
        "done": sum(job.artifact is not None for job in result.status.jobs.values()),
        "wall_s": time.perf_counter() - started,
    }


def some_images(folder: Path) -> Path:
    """Twenty tiny labelled images, as a user's .npz."""
    path = folder / "images.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (20, SMALL_PIXELS, SMALL_PIXELS, 3))
    np.savez(path, images=pixels.astype(np.uint8), labels=np.arange(20) % 2)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=10_000, help="planned jobs")
    options.add_argument("--noops", type=int, default=100, help="jobs run on local Ray")
    options.add_argument("--ray", action="store_true", help="run those jobs too")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    asked = options.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="slimctl-benchmark-") as folder:
        found["planning"] = measure_planning(asked.jobs, Path(folder))
        if asked.ray:
            found["noops"] = measure_noops(asked.noops, Path(folder))
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for name, values in found.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in values.items()))


if __name__ == "__main__":
    main()
