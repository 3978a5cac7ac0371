"""What a user sees while a run goes on: a live list of jobs on a terminal, lines when piped."""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import typer

from slimctl.orchestrator.cli.options import warn
from slimctl.orchestrator.cli.tables import Row, collapsed, counted
from slimctl.orchestrator.pipeline.diagnostics import Problem
from slimctl.orchestrator.planning.plan import EXPERIMENT_VARIABLE, TRACKING_VARIABLE, RunPlan
from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.status import JobStatus, RunStatus, apply, clock

if TYPE_CHECKING:
    from rich.console import Console, Group

PLAIN_PROGRESS_S = 10.0
VARIABLES = (TRACKING_VARIABLE, EXPERIMENT_VARIABLE)
MARKS = {
    "waiting": ("·", "dim"),
    "interrupted": ("‖", "yellow"),
    "running": ("▶", "cyan"),
    "done": ("✓", "green"),
    "reused": ("=", "green"),
    "failed": ("✗", "red"),
    "blocked": ("∅", "yellow"),
    "cancelled": ("∅", "yellow"),
    "stopped": ("■", "dim"),
}
URGENCY = (
    "running", "failed", "blocked", "cancelled", "interrupted", "waiting", "done", "reused",
    "stopped",
)  # fmt: skip
"""States in the order in which their jobs are kept where the terminal has too few lines."""
WIDE = 100
"""Columns from which a terminal has room for the kinds and for bars."""


class View(ABC):
    """Shows the events of one run on stderr."""

    def __init__(self) -> None:
        self.run = ""
        self.status = RunStatus(run="")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def plan(self, plan: RunPlan, run: str) -> None:
        """Shows what is going to happen."""
        self.run = run
        self.status = RunStatus(run=run)
        todo = sum(job.action != "reuse" for job in plan.jobs)
        if todo:
            typer.echo(
                f"run {run}: {todo} of {len(plan.jobs)} jobs to do, store {plan.storage}", err=True
            )
            if named := [name for name in VARIABLES if os.environ.get(name)]:
                where = f"MLflow {plan.tracking}, experiment {plan.experiment}"
                typer.echo(f"{where} ({' and '.join(named)})", err=True)

    def warnings(self, warnings: Sequence[Problem]) -> None:
        """Shows the warnings about the jobs that are going to run."""
        warn(warnings)

    def waits(self, text: str) -> None:
        """Says what the coming silence is for."""
        typer.echo(text, err=True)

    def event(self, event: Event) -> None:
        """Takes the next event."""
        apply(self.status, event)
        self.show(event)

    @abstractmethod
    def show(self, event: Event) -> None:
        """Shows the state after an event."""

    @abstractmethod
    def close(self) -> None:
        """Ends the display."""


class PlainView(View):
    """One line per event; progress of a job at most every ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, float] = {}

    def show(self, event: Event) -> None:
        if event.name == "progress":
            last = self._shown.get(event.job, 0.0)
            if event.time - last < PLAIN_PROGRESS_S:
                return
            self._shown[event.job] = event.time
        line = describe(event, self.status)
        if line:
            typer.echo(line, err=True)

    def close(self) -> None:
        """Nothing is open."""


class LiveView(View):
    """A table of jobs that redraws itself."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        super().__init__()
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)
        self._started = False

    def show(self, event: Event) -> None:
        if not self._started:
            self._live.start()
            self._started = True
        if event.name in ("warning", "retry", "job_failed"):
            line = describe(event, self.status)
            self._console.print(line)

    def close(self) -> None:
        if self._started:
            self._live.stop()

    def _render(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = time.time()
        width, height = self._console.size
        room = height - 2 - bool(self.status.waiting)
        rows, rest = _fitting(collapsed(self.status.jobs), self.status.jobs, room)
        table = Table(box=None, padding=(0, 1), show_header=False)
        for row in rows:
            jobs = [self.status.jobs[name] for name in row.jobs]
            shown = _leading(jobs)
            mark, style = MARKS[shown.state]
            kind = [shown.kind] if width >= WIDE else []
            bar_width = 16 if width >= WIDE else 0
            merged = _cells_together(jobs, now, bar_width) if row.together else ()
            cells = [mark, row.name, *kind, *(merged or _cells(shown, now, bar_width))]
            table.add_row(*(Text(cell, no_wrap=True) for cell in cells), style=style)
        below = [Text(line, style="dim") for line in (rest, self.status.waiting) if line]
        return Group(table, *below)


def _leading(jobs: Sequence[JobStatus]) -> JobStatus:
    """The job whose state says most about all: one that runs, failed, waits, or else is done."""
    return min(jobs, key=lambda job: URGENCY.index(job.state))


def _fitting(
    rows: Sequence[Row], jobs: Mapping[str, JobStatus], lines: int
) -> tuple[Sequence[Row], str]:
    """The rows that `lines` have room for, in order, and a line that counts the other jobs."""
    if len(rows) <= lines:
        return rows, ""

    def urgency(row: Row) -> int:
        return min(URGENCY.index(jobs[name].state) for name in row.jobs)

    kept = {row.name for row in sorted(rows, key=urgency)[: max(1, lines - 1)]}
    rest = [jobs[name].state for row in rows if row.name not in kept for name in row.jobs]
    counts = ", ".join(f"{rest.count(state)} {state}" for state in URGENCY if state in rest)
    return [row for row in rows if row.name in kept], f"and {counts}"


def _cells_together(
    jobs: Sequence[JobStatus], now: float, bar_width: int
) -> tuple[str, str, str, str]:
    """How many jobs of a group are over and how far, what the others do, and their time in all."""
    over = sum(job.state in ("done", "reused") for job in jobs)
    rest = [job.state for job in jobs if job.state not in ("done", "reused")]
    under_way = [job for job in jobs if job.state == "running"]
    took = clock(seconds) if (seconds := sum(job.seconds(now) for job in jobs)) else ""
    if left := max((job.eta_s() or 0.0 for job in under_way), default=0.0):
        took += f", {clock(left)} left of those under way"
    share = (over + sum(job.done / job.total for job in under_way if job.total)) / len(jobs)
    done = f"{_bar(share, bar_width)} {over}/{len(jobs)}".lstrip()
    return (done, "", counted(rest) if rest else "", took)


def _cells(job: JobStatus, now: float, bar_width: int) -> tuple[str, str, str, str]:
    """Progress, rate, measured numbers and time of a job."""
    seconds = job.seconds(now)
    time_text = clock(seconds) if job.state in ("running", "interrupted", "done", "failed") else ""
    if job.state != "running" or not job.total:
        return ("", "", job.message if job.state in ("failed", "blocked") else "", time_text)
    rate, eta = job.rate(), job.eta_s()
    if eta is not None:
        time_text += f", {clock(eta)} left"
    bar = _bar(job.done / job.total, bar_width)
    done = f"{bar} {job.done:,}/{job.total:,}".lstrip()
    rate_text = f"{rate:,.0f}/s" if rate and rate >= 10 else f"{rate:.2g}/s" if rate else ""
    return (done, rate_text, numbers(job.metrics), time_text)


def _bar(share: float, width: int) -> str:
    filled = round(width * min(1.0, share))
    return "━" * filled + "─" * (width - filled)


def numbers(metrics: dict[str, float]) -> str:
    """The numbers worth a glance: the loss if there is one, else all."""
    shown = {k: v for k, v in metrics.items() if k == "loss"} or metrics
    return "  ".join(f"{name} {value:.4g}" for name, value in shown.items())


def describe(event: Event, status: RunStatus) -> str:
    """An event as a line; "" if it is not worth one."""
    details: dict[str, Any] = event.details
    job = status.jobs.get(event.job)
    if event.name == "run_ended":
        return f"run {status.run}: {details['state']}"
    if event.name == "waiting":
        return str(details["message"] or "what the jobs waited for is there")
    if job is None:
        return f"warning: {details['message']}" if event.name == "warning" else ""
    head = f"{event.job} ({job.kind})"
    if event.name == "progress":
        eta = job.eta_s()
        left = f", {clock(eta)} left" if eta else ""
        return f"{head}: {job.done:,}/{job.total:,}  {numbers(job.metrics)}{left}"
    lines = {
        "job_started": f"{head}: started",
        "job_done": f"{head}: done in {clock(job.seconds(event.time))}",
        "job_reused": f"{head}: reused",
        "job_blocked": f"{head}: blocked, {details.get('what', '')}",
        "job_cancelled": f"{head}: cancelled",
        "job_failed": f"{head}: FAILED: {details.get('what', '')}\n{details.get('trace', '')}",
        "retry": f"{head}: trying again: {details.get('what', '')}",
        "warning": f"{head}: warning: {details.get('message', '')}",
        "log": f"{head}: {details.get('message', '')}",
    }
    return lines.get(event.name, "").rstrip()


def open_view(*, quiet: bool = False) -> View:
    """A live table if stderr is a terminal, else plain lines."""
    if quiet:
        return _QuietView()
    if not sys.stderr.isatty():
        return PlainView()
    from rich.console import Console

    # What jobs say is no markup: a message with brackets in it would break the display.
    return LiveView(Console(stderr=True, markup=False, emoji=False, highlight=False))


class _QuietView(View):
    def plan(self, plan: RunPlan, run: str) -> None:
        self.run = run

    def warnings(self, warnings: Sequence[Problem]) -> None:
        """Shows nothing."""

    def waits(self, text: str) -> None:
        """Shows nothing."""

    def show(self, event: Event) -> None:
        """Shows nothing."""

    def close(self) -> None:
        """Nothing is open."""
