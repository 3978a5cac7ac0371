"""A job kind that holds GPUs and sleeps, so that nothing but the layout is measured."""

import time

from pydantic import Field

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.spec import JobSpec

PROGRESS_S = 5.0


class Rest(Handle):
    """That somebody slept."""

    slept_s: float
    """For how long, s."""


class Sleep(JobSpec):
    """Holds devices of one node and sleeps."""

    seconds: float = Field(gt=0)
    """For how long, s."""
    gpus: int = Field(default=1, ge=1)
    """GPUs, each with a CPU beside it."""

    def needs(self, cluster: Cluster) -> Needs:
        return Needs(cpus=self.gpus, gpus=self.gpus)

    def run(self, context: JobContext) -> Rest:
        started = time.monotonic()
        while (left := self.seconds - (time.monotonic() - started)) > 0:
            time.sleep(min(PROGRESS_S, left))
            context.progress(round(time.monotonic() - started), round(self.seconds))
        slept_s = time.monotonic() - started
        context.device_s = slept_s * self.gpus
        return Rest(slept_s=slept_s)
