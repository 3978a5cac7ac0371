"""Starts jobs on Ray: long ones in an actor of their own, short ones in shared workers.

Shared workers stay up between jobs, since importing torch costs more than many jobs do, and give
their devices back as soon as another job needs them.
"""

import time
from dataclasses import dataclass
from typing import Any

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import Reporter
from slimctl.jobs.base.spec import Placement
from slimctl.jobs.execution import JobOutcome, JobRequest, execute
from slimctl.jobs.training.placement import free_placement

IDLE_S = 5.0
NAMESPACE = "slimctl"
LOOK_UP_EVERY_S = 5.0


@dataclass
class Launched:
    """A job on its way."""

    job: str
    artifact: str
    """Id of its result."""
    future: Any
    actor: Any
    needs: Needs
    shared: bool


@dataclass(frozen=True)
class _Idle:
    """A shared worker without a job."""

    needs: Needs
    actor: Any
    since: float


class Launcher:
    """Places the jobs of one run."""

    def __init__(self, run: str, cluster: Cluster) -> None:
        self._run = run
        self._cluster = cluster
        self._idle: list[_Idle] = []
        self._busy: dict[str, Launched] = {}

    def launch(self, request: JobRequest, placement: Placement, needs: Needs) -> Launched:
        """Starts a job; the result of `future` is its `JobOutcome`."""
        shared = placement == "shared"
        if shared:
            needs, actor = self._shared(needs)
        else:
            actor = self._own(request, placement, needs)
        works_here = placement != "own"
        threads = max(1, int(needs.cpus)) if works_here else 1
        future = actor.run.remote(request, threads, works_here and needs.gpus > 0)
        launched = Launched(request.job, request.artifact_id, future, actor, needs, shared)
        self._busy[request.job] = launched
        return launched

    def release(self, launched: Launched, *, alive: bool) -> None:
        """Takes back the actor of a job that ended."""
        self._busy.pop(launched.job, None)
        if launched.shared and alive:
            self._idle.append(_Idle(launched.needs, launched.actor, time.monotonic()))
        else:
            self._kill(launched.actor)

    def stop(self, launched: Launched) -> None:
        """Ends a job and gives back what it holds; its checkpoints stay."""
        self.release(launched, alive=False)
        if not launched.shared:
            free_placement(launched.artifact)

    def retire(self) -> None:
        """Ends workers that have been idle for a while: their devices may be wanted elsewhere."""
        limit = time.monotonic() - IDLE_S
        for idle in [each for each in self._idle if each.since < limit]:
            self._idle.remove(idle)
            self._kill(idle.actor)

    def resize(self, cluster: Cluster) -> None:
        """Takes note of what the cluster has now."""
        self._cluster = cluster

    def close(self, *, keep_own: bool = False) -> None:
        """Ends all actors of the run."""
        for idle in self._idle:
            self._kill(idle.actor)
        ended = [each for each in self._busy.values() if each.shared or not keep_own]
        for launched in ended:
            self._kill(launched.actor)
        for launched in ended:
            if not launched.shared:
                free_placement(launched.artifact)
        self._idle, self._busy = [], {}

    def _shared(self, needs: Needs) -> tuple[Needs, Any]:
        """A worker and what it holds: one that is idle, whichever it is where nothing is needed."""
        for index, idle in enumerate(self._idle):
            if idle.needs == needs or not (needs.cpus or needs.gpus):
                del self._idle[index]
                return idle.needs, idle.actor
        self._make_room(needs)
        import ray

        options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
        return needs, ray.remote(JobActor).options(**options).remote()

    def _own(self, request: JobRequest, placement: Placement, needs: Needs) -> Any:
        """An actor per artifact: a second run that wants the same result waits for the first."""
        self._make_room(needs)
        import ray

        held = Needs(cpus=0, gpus=0) if placement == "own" else needs
        options: dict[str, Any] = {"lifetime": "detached", "namespace": NAMESPACE}
        options |= {"num_cpus": held.cpus, "num_gpus": held.gpus}
        name = job_actor_name(request.artifact_id)
        return ray.remote(JobActor).options(name=name, get_if_exists=True, **options).remote()

    def _make_room(self, needs: Needs) -> None:
        """Ends idle workers until the devices of a new job are free."""
        while self._idle:
            held = [launched.needs for launched in self._busy.values()]
            held += [idle.needs for idle in self._idle]
            cpus = sum(each.cpus for each in held) + needs.cpus
            gpus = sum(each.gpus for each in held) + needs.gpus
            if cpus <= self._cluster.cpus and gpus <= self._cluster.gpus:
                return
            self._kill(self._idle.pop(0).actor)

    @staticmethod
    def _kill(actor: Any) -> None:
        import ray

        try:
            ray.kill(actor)
        except (ValueError, ray.exceptions.RayError):
            return


def job_actor_name(artifact_id: str) -> str:
    """Name of the actor that makes a result: a second run that wants it waits for the first."""
    return f"job-{artifact_id}"


class RayReporter(Reporter):
    """Sends what a job says to the supervisor of its run, without waiting.

    Args:
        supervisor: name of the supervisor actor.
    """

    def __init__(self, supervisor: str) -> None:
        self._supervisor = supervisor
        self._handle: Any = None
        self._found_s = 0.0

    def __reduce__(self) -> tuple[type["RayReporter"], tuple[str]]:
        return RayReporter, (self._supervisor,)

    def send(self, job: str, event: str, **details: Any) -> None:
        """Drops the event if the supervisor cannot be found: work never waits for talk."""
        import ray

        try:
            now = time.monotonic()
            if self._handle is None or now - self._found_s > LOOK_UP_EVERY_S:
                self._found_s = now  # a resumed run has a new supervisor of the same name
                self._handle = ray.get_actor(self._supervisor, namespace=NAMESPACE)
            self._handle.report.remote(job, event, details)
        except (ValueError, ray.exceptions.RayError):
            self._handle = None


class JobActor:
    """Runs jobs one after another in its process."""

    def run(self, request: JobRequest, threads: int, on_gpu: bool) -> JobOutcome:
        """Runs a job; never raises.

        Args:
            request: the job.
            threads: CPU threads that the job may use here.
            on_gpu: whether Ray gave this process a GPU.
        """
        return execute(request, _device(on_gpu), threads)

    def ready(self) -> bool:
        """Answers once the process is up."""
        return True


def _device(on_gpu: bool) -> str:
    """A GPU that Ray declared may not be there: then the work is done on the CPU."""
    if not on_gpu:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
