"""What a run and its jobs may take: the budget of the pipeline, the timeouts of jobs."""

from collections.abc import Mapping

from slimctl.orchestrator.pipeline.operations import Price
from slimctl.orchestrator.planning.plan import RunPlan
from slimctl.orchestrator.runs.status import RunStatus, clock

GRACE_S = 60.0
"""Time that a job is given to make a checkpoint before it is ended."""


class Limits:
    """Watches what is spent.

    Args:
        plan: with the budget and the price.
        began: Unix time since when the run's time counts, s.
    """

    def __init__(self, plan: RunPlan, began: float) -> None:
        self._budget, self._price, self._began = plan.budget, plan.price or Price(), began
        self._since: dict[str, float] = {}

    def spent(self, status: RunStatus, now: float) -> str:
        """Which limit of the budget is reached, in words; "" if none is."""
        hours = status.hours(now)
        used = {
            "cost": self._price.of(hours),
            "gpu_hours": hours["GPU"],
            "cpu_hours": hours["CPU"],
            "time": now - self._began,
        }
        for name, limit in self._budget or ():
            if limit is not None and used[name] >= limit:
                return f"its budget of {self._in_words(name, limit)} is spent"
        return ""

    def _in_words(self, name: str, limit: float) -> str:
        if name == "cost":
            return self._price.text(limit)
        return clock(limit) if name == "time" else f"{limit:g} {name[:3].upper()}-hours"

    def overdue(
        self, timeouts: Mapping[str, float], status: RunStatus, now: float
    ) -> dict[str, str]:
        """Running jobs that began longer than their timeout ago -> why they stop.

        Args:
            timeouts: of the jobs that have one, s.
            status: of the run.
            now: Unix time, s.
        """
        found: dict[str, str] = {}
        for name, timeout in timeouts.items():
            job = status.jobs[name]
            if job.state == "running" and job.started is not None:
                since = self._since.setdefault(name, job.started)  # of the first attempt
                if now - since >= timeout:
                    found[name] = f"its timeout of {clock(timeout)} is over"
        return found
