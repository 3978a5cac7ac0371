"""The state of a run as a fold over its events."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from slimctl.orchestrator.runs.events import Event

JobState = Literal[
    "waiting", "running", "interrupted", "done", "reused", "failed", "blocked", "cancelled",
    "stopped",
]  # fmt: skip
RunState = Literal["running", "done", "failed", "cancelled", "stopped", "interrupted"]
OVER: frozenset[str] = frozenset({"done", "failed", "cancelled", "stopped"})
"""States of a run that has ended; `stopped` is by its budget or a timeout."""
FINAL: frozenset[str] = frozenset({"done", "reused", "failed", "blocked", "cancelled", "stopped"})
RATE_WINDOW = 20


class JobStatus(BaseModel):
    """What is known of a job now."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    key: str
    artifact: str
    """Artifact id."""
    after: list[str] = []
    """Jobs whose results it takes."""
    search: str = ""
    """The search whose trial it belongs to; the run can do without it. "" = none."""
    state: JobState = "waiting"
    attempt: int = 0
    started: float | None = None
    """Unix time, s."""
    ended: float | None = None
    done: int = 0
    """Units of work finished, such as steps or pairs."""
    total: int = 0
    metrics: dict[str, float] = {}
    points: list[tuple[float, float]] = []
    """Last (time, done) points, for the rate; units under way count in part."""
    device_s: float = 0.0
    cpus: float = 0.0
    gpus: float = 0.0
    """Devices that the attempt holds which runs."""
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    """Seconds of devices that ended attempts held; of those with GPUs only these count."""
    failure: str = ""
    """Class of the error."""
    where: str = ""
    message: str = ""
    """Last warning or the error."""
    fix: str = ""
    warnings: list[str] = []

    def hours(self, now: float) -> dict[str, float]:
        """Device hours that all attempts held, by kind of device: `CPU` and `GPU`."""
        cpu_s, gpu_s = self._held_s(now) if self.state == "running" else (0.0, 0.0)
        return {"CPU": (self.cpu_s + cpu_s) / 3600, "GPU": (self.gpu_s + gpu_s) / 3600}

    def _held_s(self, now: float) -> tuple[float, float]:
        """Device seconds of the attempt under way: of CPUs, of GPUs."""
        took = max(0.0, now - (self.started or now))
        return (0.0, took * self.gpus) if self.gpus else (took * self.cpus, 0.0)

    def release(self, now: float) -> None:
        """Notes that the attempt under way holds nothing any more."""
        cpu_s, gpu_s = self._held_s(now)
        self.cpu_s, self.gpu_s = self.cpu_s + cpu_s, self.gpu_s + gpu_s
        self.cpus = self.gpus = 0.0

    def seconds(self, now: float) -> float:
        """Wall time spent so far, s."""
        return (self.ended or now) - self.started if self.started else 0.0

    def rate(self) -> float | None:
        """Units per second over the last points; None if there are too few."""
        if len(self.points) < 2:
            return None
        (t0, n0), (t1, n1) = self.points[0], self.points[-1]
        return (n1 - n0) / (t1 - t0) if t1 > t0 and n1 > n0 else None

    def eta_s(self) -> float | None:
        """Time left at that rate, s; None if unknown."""
        rate = self.rate()
        return (self.total - self.points[-1][1]) / rate if rate and self.total else None


class RunStatus(BaseModel):
    """What is known of a run now."""

    model_config = ConfigDict(extra="forbid")

    run: str
    name: str = ""
    state: RunState = "running"
    started: float = 0.0
    ended: float | None = None
    message: str = ""
    waiting: str = ""
    """What jobs wait for that is not there, such as GPUs; "" = nothing."""
    jobs: dict[str, JobStatus] = {}

    def hours(self, now: float) -> dict[str, float]:
        """Device hours that the run's jobs held, by kind of device: `CPU` and `GPU`."""
        each = [job.hours(now) for job in self.jobs.values()]
        return {device: sum(hours[device] for hours in each) for device in ("CPU", "GPU")}

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            counts[job.state] = counts.get(job.state, 0) + 1
        return counts


def fold(run: str, events: Iterable[Event]) -> RunStatus:
    """The status after all events."""
    status = RunStatus(run=run)
    for event in events:
        apply(status, event)
    return status


def apply(status: RunStatus, event: Event) -> None:
    """Updates a status by one event; unknown ones are ignored."""
    if event.name == "jobs_added":
        for name, fields in event.details["jobs"].items():
            known = status.jobs.get(name)
            if known is None or known.artifact != fields["artifact"]:
                after = sorted(fields["inputs"])
                kept = {key: fields[key] for key in ("kind", "key", "artifact", "search")}
                status.jobs[name] = JobStatus(**kept, after=after)
    if not event.job:
        _apply_run(status, event)
        return
    job = status.jobs.get(event.job)
    if job is not None:
        _apply_job(job, event)


def _apply_run(status: RunStatus, event: Event) -> None:
    details = event.details
    if event.name == "run_started":
        status.name, status.started = details["name"], status.started or event.time
        status.state, status.ended, status.message = "running", None, ""
        status.waiting = ""
        for name, fields in details["jobs"].items():
            known = status.jobs.get(name)
            if known is None or known.artifact != fields["artifact"]:
                status.jobs[name] = JobStatus.model_validate(fields)
    elif event.name == "run_resumed":
        status.state, status.ended = "running", None
        for name in details["jobs"]:
            status.jobs[name] = _to_do_again(status.jobs[name])
    elif event.name == "run_ended":
        status.state, status.ended, status.waiting = details["state"], event.time, ""
        status.message = details.get("what", status.message)
        if status.state == "interrupted":
            interrupt(status, event.time)
    elif event.name == "waiting":
        status.waiting = details["message"]
    elif event.name in ("warning", "log"):
        status.message = details["message"]


def interrupt(status: RunStatus, last: float) -> None:
    """Marks a run whose supervisor is gone: nothing of it runs any more.

    `last` is the Unix time of the last thing known of it, s.
    """
    status.state, status.waiting = "interrupted", ""
    for job in status.jobs.values():
        if job.state == "running":
            job.release(last)
            job.state, job.ended = "interrupted", max(last, job.started or 0.0)


def _to_do_again(job: JobStatus) -> JobStatus:
    """The job before its next attempt; of one whose end nobody saw, until it was last heard of."""
    job.release(max([job.started or 0.0, *(time for time, _ in job.points)]))
    kept = {"kind", "key", "artifact", "after", "search", "done", "total", "cpu_s", "gpu_s"}
    return JobStatus.model_validate(job.model_dump(include=kept))


def _apply_job(job: JobStatus, event: Event) -> None:
    details: dict[str, Any] = event.details
    if event.name == "job_started":
        job.release(event.time)  # of an attempt whose supervisor died with it
        job.state, job.attempt = "running", details["attempt"]
        job.cpus, job.gpus = details.get("cpus", 0.0), details.get("gpus", 0.0)
        job.started, job.ended, job.points = event.time, None, []
    elif event.name == "progress":
        job.done, job.total = details["done"], details["total"]
        job.metrics = {**job.metrics, **details.get("metrics", {})}
        point = (event.time, details.get("exact", job.done))
        job.points = [*job.points, point][-RATE_WINDOW:]
    elif event.name == "warning":
        job.warnings.append(details["message"])
    elif event.name == "retry":
        job.message = details["what"]
        job.release(event.time)
    elif event.name.startswith("job_") and event.name[4:] in FINAL:
        job.release(event.time)
        job.state = event.name[4:]  # type: ignore[assignment]
        job.ended = event.time
        job.device_s = details.get("device_s", 0.0)
        job.failure = details.get("failure", "")
        job.where, job.fix = details.get("where", ""), details.get("fix", "")
        job.message = details.get("what", "")


def clock(seconds: float) -> str:
    """Seconds as 42s, 3m07s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
