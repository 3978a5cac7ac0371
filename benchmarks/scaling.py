"""How busy a pool keeps its actors on a simulated cluster: each item is a sleep.

The clock starts when every actor has answered once, so that what is measured is handing out work,
not starting processes.

    python -m benchmarks.scaling [--actors 32] [--items 640] [--json]
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

from slimctl.jobs.pairs.pool import IN_FLIGHT, Pool


class Sleeper:
    """An actor whose work is a sleep; it notes when it worked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def ready(self) -> bool:
        """Answers once it is there."""
        return True

    def make(self, item: int) -> tuple[float, float]:
        """Sleeps; returns when it began and when it ended, s."""
        started = time.time()
        time.sleep(self._seconds)
        return started, time.time()


def busy_share(actors: int, items: int, seconds: float) -> dict[str, float]:
    """Share of the actors' time spent in their work, from the first item to the last full hand."""
    import ray

    ray.init(
        address="local",
        num_cpus=actors,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    try:
        cls: Any = ray.remote(Sleeper)
        handles = [cls.options(num_cpus=1).remote(seconds) for _ in range(actors)]
        ray.get([handle.ready.remote() for handle in handles])
        spans: list[tuple[float, float]] = []
        Pool[int](handles, "scaling").run(range(items), lambda item, span: spans.append(span))
    finally:
        ray.shutdown()
    wall = max(end for _, end in spans) - min(start for start, _ in spans)
    worked = sum(end - start for start, end in spans)
    return {
        "actors": actors,
        "items": items,
        "in_flight": IN_FLIGHT,
        "wall_s": wall,
        "busy": worked / (wall * actors),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--actors", type=int, default=32)
    options.add_argument("--items", type=int, default=640)
    options.add_argument("--seconds", type=float, default=0.2, help="length of an item's sleep")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    asked = options.parse_args(arguments)
    found = busy_share(asked.actors, asked.items, asked.seconds)
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
