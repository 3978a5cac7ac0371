"""Asking a cluster for GPUs that are not there yet.

A reservation that cannot be met is what Ray's autoscalers start nodes for. It ends with whoever
made it, so that a run that is gone rents nothing; `request_resources` of Ray would stay until
somebody takes it back, and a second run would overwrite it.
"""

from collections.abc import Sequence
from typing import Any

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.registry import parse_job
from slimctl.orchestrator.planning.plan import RunPlan


class Demand:
    """The GPUs that a run waits for, as one reservation that is taken back when they are there.

    Args:
        run: whose they are; a reservation that an earlier supervisor of it left is taken back.
    """

    def __init__(self, run: str) -> None:
        self._name = f"gpus-for-{run}"
        self._asked: tuple[float, ...] | None = None

    def ask(self, parts: Sequence[float]) -> None:
        """Asks for these GPUs at once, each part on one node; for none any more if empty."""
        if tuple(parts) == self._asked:
            return
        self._asked = tuple(parts)
        from ray.util.placement_group import (
            get_placement_group,
            placement_group,
            remove_placement_group,
        )

        held: Any = None
        try:
            held = get_placement_group(self._name)
        except ValueError:  # there is none
            held = None
        if held is not None:
            remove_placement_group(held)
        if parts:
            placement_group([{"GPU": gpus} for gpus in parts], name=self._name)


def waiting_for(gpus: float, there: Cluster) -> str:
    """That jobs wait for GPUs, in words."""
    return f"waiting for {gpus:g} GPU{'s' if gpus != 1 else ''}: the cluster has {there.gpus}"


def runs_on_cpus(plan: RunPlan, there: Cluster) -> str:
    """That jobs which could use GPUs run on CPUs, in words; "" if they do not."""
    due = (job for job in plan.jobs if job.action != "reuse")
    one_gpu = Cluster(cpus=1, gpus=1)
    wanted = any(parse_job(job.kind, job.fields).needs(one_gpu).gpus for job in due)
    if there.gpus or plan.resources or not wanted:
        return ""
    more = f" It can start {there.startable_gpus}." if there.startable_gpus else ""
    return (
        f"the cluster has no GPU now, so the jobs run on its CPUs.{more} To wait for GPUs that it "
        "starts on request, add 'resources: {gpus: 8}' to the pipeline, or --expect-gpus 8"
    )
