"""Where a trial's jobs run: Ray tasks behind a gate.

A trial takes no CPU of Ray's: it waits for its jobs, which take what they need. A gate lets only as
many start as the cluster has room for, since a training that waits for its second worker would hold
what another one waits for; and it keeps two trials from making one result twice.
"""

import asyncio
from typing import Any

from jobs.base.cluster import Needs
from jobs.base.context import Ended, JobRunner
from jobs.base.subgraph import SubJob
from jobs.search.trial import Stopped, SweepTask
from jobs.training.placement import free_placement


class Gate:
    """Lets jobs in as far as the devices reach, and each result in once at a time."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": cpus, "gpus": gpus}
        self._busy: set[str] = set()
        self._changed = asyncio.Condition()

    async def enter(self, artifact: str, cpus: float, gpus: float) -> None:
        """Waits until there is room."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    artifact not in self._busy
                    and cpus <= self._free["cpus"]
                    and gpus <= self._free["gpus"]
                )
            )
            self._busy.add(artifact)
            self._take(cpus, gpus)

    async def leave(self, artifact: str, cpus: float, gpus: float) -> None:
        """Gives the room back."""
        async with self._changed:
            self._busy.discard(artifact)
            self._take(-cpus, -gpus)
            self._changed.notify_all()

    def _take(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": self._free["cpus"] - cpus, "gpus": self._free["gpus"] - gpus}


class OnRay:
    """Runs the jobs of one trial as Ray tasks once the gate has let them in.

    Args:
        task: the sweep.
        gate: handle of the gate.
    """

    def __init__(self, task: SweepTask, gate: Any) -> None:
        self._task = task
        self._gate = gate
        self._entering: Any = None
        self._work: Any = None
        self._stopped = False

    def __call__(self, job: SubJob) -> Ended:
        import ray  # noqa: PLC0415

        self._go_on()
        if self._task.store.state(job.artifact) == "done":
            return Ended()
        cluster = self._task.cluster
        wanted = job.spec.needs(cluster)
        room = (min(wanted.cpus, cluster.cpus), min(wanted.gpus, cluster.gpus))
        self._enter(job, room)
        try:
            return self._run(job, wanted)
        except ray.exceptions.RayError as error:
            if self._stopped and job.spec.placed() == "own":
                free_placement(job.artifact)
            self._go_on()
            return Ended(f"its worker died: {type(error).__name__}", retry=True)
        finally:
            ray.get(self._gate.leave.remote(job.artifact, *room))

    def stop(self) -> None:
        """Ends the job that runs or waits, and starts no other: `__call__` raises Stopped."""
        import ray  # noqa: PLC0415

        self._stopped = True
        if self._entering is not None:
            ray.cancel(self._entering)  # else room would be taken for a trial that is gone
        if self._work is not None:
            ray.cancel(self._work, force=True)

    def _enter(self, job: SubJob, room: tuple[float, float]) -> None:
        import ray  # noqa: PLC0415

        self._entering = self._gate.enter.remote(job.artifact, *room)
        try:
            ray.get(self._entering)
        except ray.exceptions.TaskCancelledError as error:
            raise Stopped from error
        finally:
            self._entering = None

    def _go_on(self) -> None:
        if self._stopped:
            raise Stopped

    def _run(self, job: SubJob, wanted: Needs) -> Ended:
        import ray  # noqa: PLC0415

        self._go_on()
        shared = job.spec.placed() == "shared"
        here = wanted if shared else Needs(cpus=0, gpus=0)
        remote = ray.remote(_work).options(
            num_cpus=here.cpus,
            num_gpus=here.gpus,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # else it would have to fit into its trial's own share
        )
        threads = max(1, int(here.cpus))
        self._work = remote.remote(self._task.runner, job, threads, here.gpus > 0)
        try:
            ended: Ended = ray.get(self._work)
        finally:
            self._work = None
        return ended


def _work(runner: JobRunner, job: SubJob, threads: int, on_gpu: bool) -> Ended:
    device = "cpu"
    if on_gpu:
        import torch  # noqa: PLC0415

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return runner.run(job, device, threads)
