"""A trial in a thread of its own, whose scores come out one after another while it trains."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.subgraph import trial_jobs, trial_specs
from slimctl.jobs.search.trial import Place, SweepTask, note, noted_before, run_trial, scores_of

POLL_S = 1.0
STEP, SCORE = "step", "score"
"""Of a point: the optimizer step, and the score after it."""
PENALTY = 1e9
"""Stands for a number that a trial did not get: an objective of a failed one, a score of none."""


class TrialInBackground:
    """A trial under way.

    Args:
        task: the sweep.
        values: variable -> value.
        place: runs its jobs.
        stop: makes `place` end the job under way and refuse others.
    """

    def __init__(
        self,
        task: SweepTask,
        values: Mapping[str, Any],
        place: Place,
        stop: Callable[[], None],
    ) -> None:
        self._task = task
        self._values = dict(values)
        self._place = place
        self._stop = stop
        self._watched = _watched(task, values)
        self._last = (0, PENALTY)
        self._trial: Trial | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._try()
        except Exception as error:  # noqa: BLE001  (raised again by `next`)
            self._error = error

    def _try(self) -> None:
        earlier = noted_before(self._task, self._values)
        if earlier is not None and (earlier.state == "stopped" or self._is_there(earlier)):
            self._trial = earlier
            return
        trial = run_trial(self._task, self._values, self._place)
        if trial.state == "stopped" and not self._may_stop():
            return  # nobody judged it: it was the search that ended
        if trial.state in ("done", "stopped") and self._watched:
            scores = scores_of(self._task.store, self._watched)
            trial = trial.model_copy(update={"scores": tuple(scores.items())})
        count = note(self._task, trial)
        send, job = self._task.reporter.send, self._task.job
        send(job, "log", message=_line(self._task, trial))
        send(job, "progress", done=count, total=self._task.total, metrics={})
        self._trial = trial

    def _is_there(self, earlier: Trial) -> bool:
        """Whether a trial that was finished before still has all that it made."""
        state = self._task.store.state
        return earlier.state == "done" and all(
            state(one) == "done" for one in earlier.artifacts.values()
        )

    def _may_stop(self) -> bool:
        """Whether a scheduler has had a score to judge the trial by."""
        early = self._task.early
        return early is not None and self._last[0] >= early.grace_period

    def next(self, goals: Mapping[str, float]) -> dict[str, Any]:
        """Waits for the next score, or for the end.

        Args:
            goals: numbers that a point has until the end tells them.

        Returns:
            The point, with `done`.

        Raises:
            Exception: what kept the trial from being run or noted, such as an OSError.
        """
        while True:
            over = not self._thread.is_alive()  # asked first: then no score is missed
            told = self._goals(goals) if over else dict(goals)
            if fresh := self._next_score():
                self._last = fresh
                return {**told, STEP: fresh[0], SCORE: fresh[1], "done": False}
            if over and self._error is not None:
                raise self._error
            if over:
                step, score = self._last
                return {**told, STEP: step, SCORE: score, "done": True}
            self._thread.join(POLL_S)

    def _next_score(self) -> tuple[int, float] | None:
        if self._watched is None:
            return None
        scores = scores_of(self._task.store, self._watched)
        return next(((step, one) for step, one in scores.items() if step > self._last[0]), None)

    def _goals(self, goals: Mapping[str, float]) -> dict[str, float]:
        trial = self._trial
        return {name: goal_of(trial, name) if trial else PENALTY for name in goals}

    def end(self, patience_s: float = 30.0) -> None:
        """Stops what is still under way, and waits until it is noted."""
        deadline = time.monotonic() + patience_s
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._stop()
            self._thread.join(POLL_S)


def _watched(task: SweepTask, values: Mapping[str, Any]) -> str | None:
    """Artifact of the job whose scores are watched; None where there is none."""
    if task.early is None:
        return None
    try:
        specs = trial_specs(task.templates, values, task.seed)
        return next(
            job.artifact for job in trial_jobs(specs, task.outside) if job.name == task.early.watch
        )
    except (UserError, ValidationError, ValueError, OSError):
        return None  # the trial itself will say so


def _line(task: SweepTask, trial: Trial) -> str:
    """How a trial ended, in a line."""
    if trial.state != "done":
        state = {"filtered": "ruled out"}.get(trial.state, trial.state)
        return f"{in_words(trial.values)}: {state}: {trial.why}"
    numbers = (f"{name} {trial.metrics[name]:.4g}" for name in task.goals if name in trial.metrics)
    return f"{in_words(trial.values)}: {', '.join(numbers)}"


def goal_of(trial: Trial, name: str) -> float:
    """The number that a search learns from."""
    return trial.metrics.get(name, PENALTY) if trial.state == "done" else PENALTY
