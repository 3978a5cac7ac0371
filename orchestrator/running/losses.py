"""How often each job of a run failed, and whether it is started again."""

from dataclasses import dataclass

from slimctl.jobs.base.errors import WorkLost
from slimctl.jobs.base.failures import BUDGETS
from slimctl.jobs.execution import JobOutcome

MAX_BACKOFF_S = 30.0


@dataclass(frozen=True)
class _Past:
    """What is known of a job that failed."""

    failures: int = 0
    """In a row, without progress between them."""
    done: int = 0
    """How far it was at the last one."""
    words: tuple[str, str] = ("", "")
    """Class and words of the last one."""
    alike: int = 0
    """How many in a row had these words."""


class Losses:
    """The failures of a run's jobs, held against the budgets of their classes."""

    def __init__(self) -> None:
        self._past: dict[str, _Past] = {}

    def pause_s(self, job: str, outcome: JobOutcome, done: int) -> float | None:
        """How long to wait before a job that failed is started again; None = never.

        Args:
            job: its name.
            outcome: how it ended.
            done: how far it was.
        """
        if not outcome.retry:
            return None
        budget = BUDGETS.get(outcome.failure or "", BUDGETS[WorkLost.__name__])
        if not budget.counts:
            return 0.0
        past = self._past.get(job, _Past())
        failures = past.failures + 1 if done <= past.done else 1
        words = (outcome.failure or "", outcome.what)
        alike = past.alike + 1 if words == past.words else 1
        self._past[job] = _Past(failures, done, words, alike)
        if failures >= budget.failures or alike >= budget.alike:
            return None
        return min(MAX_BACKOFF_S, 2.0 ** (failures - 1))

    def forgive(self) -> None:
        """Takes one failure of each job back: a node is gone, and work went with it."""
        self._past = {
            job: _Past(max(0, past.failures - 1), past.done, past.words, past.alike)
            for job, past in self._past.items()
        }
