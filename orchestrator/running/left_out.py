"""GPUs that failed: held for the rest of a run, so that Ray places nothing on them.

Ray gives out whichever GPU of a node is free. So one actor after another takes one, until the GPU
that failed is among them; that actor stays, the others end.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

MOST = 16
"""GPUs of a node that are tried."""
ANSWER_S = 90.0
"""How long an actor may take to start; one that finds no free GPU never does."""


class Holder:
    """Does nothing on a GPU."""

    def device(self) -> tuple[str, str]:
        """Ray's id of its GPU on this node, and NVIDIA's UUID; "" where there is no real GPU."""
        import ray
        import torch

        (number,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        real = torch.cuda.is_available()
        return str(number), str(torch.cuda.get_device_properties(0).uuid) if real else ""


class LeftOut:
    """The GPUs that a run does without."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Any] = {}

    def hold(self, node: str, device: str) -> str | None:
        """Takes a GPU out; returns its UUID, None if it could not be had.

        Args:
            node: Ray's id of its node.
            device: Ray's id of the GPU there.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node, soft=False)
        options = {"num_gpus": 1, "num_cpus": 0, "scheduling_strategy": place}
        tried: list[Any] = []
        try:
            for _ in range(MOST):
                tried.append(ray.remote(Holder).options(**options).remote())
                found, uuid = ray.get(tried[-1].device.remote(), timeout=ANSWER_S)
                if found == device:
                    self._held[node, device] = tried.pop()
                    return str(uuid)
        except ray.exceptions.RayError:  # no other is free, or the node is gone
            return None
        finally:
            for actor in tried:
                ray.kill(actor)
        return None

    def per_node(self) -> Mapping[str, int]:
        """How many of each node's GPUs are left out, by Ray's id of the node."""
        return Counter(node for node, _ in self._held)

    def close(self) -> None:
        """Gives all of them back."""
        import ray

        for actor in self._held.values():
            ray.kill(actor)
        self._held = {}
