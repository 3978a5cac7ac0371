"""Which share of a cluster's GPUs a run keeps busy: a sweep beside a training on a whole node.

python -m benchmarks.busy_cluster [--nodes 8] [--gpus 8] [--trials 64] [--trial-gpus 4]
                                  [--seconds 900] [--json]

The nodes are Ray's own, on loopback addresses of this machine, with GPUs that are only declared;
jobs sleep. The training holds a node for `--seconds`. The lengths and the order of the trials are
such that they fill the other nodes exactly as long: what is missing to 100 % is what starting
processes and handing over devices takes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slimctl.orchestrator.runs.events import Event

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = """[slimctl.kinds]
sleep = benchmarks.sleeping:Sleep
[slimctl.artifacts]
Rest = benchmarks.sleeping:Rest
"""
STORE_BYTES = 80 * 2**20
"""Object store of a node: nothing large goes through it."""
SEARCH = "sizes"
LAST_BYTE = 101
"""The nodes are 127.0.0.101, 127.0.0.102, ..."""
DIFFERENCE_S = 1e-2
"""Between the times of two trials: equal values would be one trial."""


def lengths(trials: int, lanes: int, seconds: float) -> list[float]:
    """Times of trials that fill `lanes` for so long, in the order in which lanes come free.

    Raises:
        ValueError: there are fewer trials than lanes.
    """
    if trials < lanes:
        raise ValueError(f"{trials} trials leave some of {lanes} lanes empty")
    least, longer = divmod(trials, lanes)
    begun = []
    for lane in range(lanes):
        count = least + (lane < longer)
        begun += [(number * seconds / count, lane, seconds / count) for number in range(count)]
    return [round(one[-1] - at * DIFFERENCE_S, 3) for at, one in enumerate(sorted(begun))]


def pipeline_text(gpus: int, times: Iterable[float], seconds: float, trial_gpus: int = 1) -> str:
    """A training of `gpus` GPUs beside a sweep with a trial for each of the times."""
    return f"""
name: busy
jobs:
  training: {{kind: sleep, seconds: {seconds}, gpus: {gpus}}}
  {SEARCH}:
    kind: sweep
    space: {{seconds: {{choice: {[*times]}}}}}
    minimize: trial.slept_s
    jobs:
      trial: {{kind: sleep, seconds: "${{seconds}}", gpus: {trial_gpus}}}
"""


def busy_share(events: Iterable[Event], gpus: int) -> dict[str, float]:
    """Which share of all GPUs worked, from the events of a run.

    Returns:
        `busy`: from the moment when the first process worked to the last end; `busy_from_launch`:
        from the first launch, with the start of the first processes; `first_process_s`: that start;
        `held`: share for which the GPUs were given to jobs, from the first launch; `handed_over_s`:
        mean time from the end of a job to the launch of the one that got its GPUs; `wall_s`.
    """
    launched: dict[str, float] = {}
    worked_s = held_s = 0.0
    works: list[float] = []
    ends: list[float] = []
    for event in events:
        if event.name == "job_started" and event.job != SEARCH:
            launched[event.job] = event.time
        elif event.name == "job_done" and event.job in launched:
            wall_s, device_s = event.details["wall_s"], event.details["device_s"]
            worked_s += device_s
            held_s += round(device_s / wall_s) * (event.time - launched[event.job])
            works.append(event.time - wall_s)
            ends.append(event.time)
    begin, work, end = min(launched.values()), min(works), max(ends)
    later = sorted(time for time in launched.values() if time > min(ends))
    waits = [launch - done for launch, done in zip(later, sorted(ends), strict=False)]
    return {
        "busy": worked_s / (gpus * (end - work)),
        "busy_from_launch": worked_s / (gpus * (end - begin)),
        "first_process_s": work - begin,
        "held": held_s / (gpus * (end - begin)),
        "handed_over_s": sum(waits) / max(1, len(waits)),
        "wall_s": end - begin,
    }


@contextmanager
def nodes_of(count: int, gpus: int) -> Iterator[str]:
    """Raylets on this machine with that many declared GPUs and CPUs each; gives their address."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for at in range(count):
            cluster.add_node(
                num_cpus=gpus,
                num_gpus=gpus,
                node_ip_address=f"127.0.0.{LAST_BYTE + at}",
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
            )
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def install_kinds(folder: Path) -> None:
    """Makes the sleeping kind an installed one, here and in processes that are started later."""
    package = folder / "slim_sleeping-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: slim-sleeping\nVersion: 1\n")
    (package / "entry_points.txt").write_text(ENTRY_POINTS)
    sys.path[:0] = [str(folder)]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])


def run(text: str, storage: Path, address: str) -> list[Event]:
    """Runs a pipeline on a cluster, without MLflow; returns its events."""
    import ray

    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
    from slimctl.orchestrator.planning.graph import Graph
    from slimctl.orchestrator.planning.plan import make_plan
    from slimctl.orchestrator.running.cluster import prepare_environment
    from slimctl.orchestrator.running.launcher import NAMESPACE
    from slimctl.orchestrator.running.submission import say_nothing, start
    from slimctl.orchestrator.runs.events import read_events

    prepare_environment()
    pipeline = resolve(parse_pipeline(text, "busy.yaml", storage=str(storage)).pipeline)
    plan = make_plan(pipeline, Graph.of(pipeline), Store(pipeline.storage))
    plan = plan.model_copy(update={"tracking": None})
    ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    try:
        ended = start("busy", plan, address=None, detach=False, listener=None, on_wait=say_nothing)
    finally:
        ray.shutdown()
    if ended.status.state != "done":
        raise RuntimeError(f"the run ended as {ended.status.state}: {ended.status.message}")
    return [*read_events(Store(str(storage)).blobs, "busy")]


def measure(nodes: int, gpus: int, trials: int, trial_gpus: int, seconds: float) -> dict[str, Any]:
    """The share of `nodes` x `gpus` GPUs that are busy."""
    times = lengths(trials, (nodes - 1) * (gpus // trial_gpus), seconds)
    text = pipeline_text(gpus, times, seconds, trial_gpus)
    with tempfile.TemporaryDirectory(prefix="busy-") as name:
        folder = Path(name)
        install_kinds(folder)
        up = time.perf_counter()
        with nodes_of(nodes, gpus) as address:
            up = time.perf_counter() - up
            events = run(text, folder / "store", address)
    settings = {"nodes": nodes, "gpus": gpus, "trials": trials, "trial_gpus": trial_gpus}
    measured = {"seconds": seconds, "cluster_up_s": up, **busy_share(events, nodes * gpus)}
    return {**settings, **measured}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--trial-gpus", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = measure(asked.nodes, asked.gpus, asked.trials, asked.trial_gpus, asked.seconds)
    if asked.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:14} {value:.3f}" if isinstance(value, float) else f"{name:14} {value}")


if __name__ == "__main__":
    main()
