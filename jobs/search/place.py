"""Where a trial's jobs run: Ray tasks behind a gate.

A trial takes no CPU of Ray's: it waits for its jobs, which take what they need. A gate lets only as
many start as the cluster has room for, since a training that waits for its second worker would hold
what another one waits for; and it keeps two trials from making one result twice.
"""

import asyncio
from typing import Any

from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import Ended, JobRunner
from slimctl.jobs.base.subgraph import SubJob
from slimctl.jobs.search.trial import Stopped, SweepTask
from slimctl.jobs.training.placement import free_placement


class Gate:
    """Lets jobs in as far as the devices reach, and each result in once at a time."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": cpus, "gpus": gpus}
        self._inside: dict[str, tuple[str, float, float]] = {}
        """Trial -> the result that it makes, and the room that this takes."""
        self._changed = asyncio.Condition()

    async def enter(self, trial: str, artifact: str, cpus: float, gpus: float) -> None:
        """Waits until there is room.

        Args:
            trial: Tune's name of it; a trial makes one result at a time.
            artifact: the result.
            cpus: that it takes.
            gpus: that it takes.
        """
        await self.leave(trial)  # what an earlier process of the trial, now dead, left behind
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    artifact not in {made for made, _, _ in self._inside.values()}
                    and cpus <= self._free["cpus"]
                    and gpus <= self._free["gpus"]
                )
            )
            self._inside[trial] = (artifact, cpus, gpus)
            self._take(cpus, gpus)

    async def leave(self, trial: str) -> None:
        """Gives the room of a trial back, if it has any."""
        async with self._changed:
            held = self._inside.pop(trial, None)
            if held is not None:
                self._take(-held[1], -held[2])
                self._changed.notify_all()

    def _take(self, cpus: float, gpus: float) -> None:
        self._free = {"cpus": self._free["cpus"] - cpus, "gpus": self._free["gpus"] - gpus}


class OnRay:
    """Runs the jobs of one trial as Ray tasks once the gate has let them in.

    Args:
        task: the sweep.
        gate: handle of the gate.
        trial: Tune's name of it, the same in every process that it has.
    """

    def __init__(self, task: SweepTask, gate: Any, trial: str) -> None:
        self._task = task
        self._gate = gate
        self._trial = trial
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
            if self._stopped and job.spec.placed(self._task.cluster) == "own":
                free_placement(job.artifact)
            self._go_on()
            return Ended(f"its worker died: {type(error).__name__}", retry=True)
        finally:
            ray.get(self._gate.leave.remote(self._trial))

    def stop(self) -> None:
        """Ends the job that runs or waits, and starts no other: `__call__` raises Stopped."""
        import ray  # noqa: PLC0415

        self._stopped = True
        entering, work = self._entering, self._work  # once: the trial's thread changes them
        if entering is not None:
            ray.cancel(entering)  # else room would be taken for a trial that is gone
        if work is not None:
            ray.cancel(work, force=True)

    def _enter(self, job: SubJob, room: tuple[float, float]) -> None:
        import ray  # noqa: PLC0415

        entering = self._entering = self._gate.enter.remote(self._trial, job.artifact, *room)
        try:
            ray.get(entering)
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
        spread = job.spec.placed(self._task.cluster) == "own"
        here = Needs(cpus=0, gpus=0) if spread else wanted
        remote = ray.remote(_work).options(
            num_cpus=here.cpus,
            num_gpus=here.gpus,
            max_retries=0,
            scheduling_strategy="DEFAULT",  # else it would have to fit into its trial's own share
        )
        threads = max(1, int(here.cpus))
        work = self._work = remote.remote(self._task.runner, job, threads, here.gpus > 0)
        try:
            ended: Ended = ray.get(work)
        finally:
            self._work = None
        return ended


def _work(runner: JobRunner, job: SubJob, threads: int, on_gpu: bool) -> Ended:
    device = "cpu"
    if on_gpu:
        import torch  # noqa: PLC0415

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return runner.run(job, device, threads)
