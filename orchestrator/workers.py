"""The actors that run jobs, and how a job anywhere reaches the supervisor of its run."""

import time
from typing import Any

from slimctl.jobs.base.context import Reporter
from slimctl.jobs.execution import JobOutcome, JobRequest, execute

NAMESPACE = "slimctl"
LOOK_UP_EVERY_S = 5.0


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
