"""What channels are told of a run: how it stands, its jobs, time left, costs, results."""

from slimctl.orchestrator.pipeline.operations import Happening, Price
from slimctl.orchestrator.runs.status import JobStatus, RunStatus, clock

MOST_JOBS = 30


def notice_text(
    happening: Happening,
    status: RunStatus,
    now: float,
    *,
    what: str = "",
    price: Price | None = None,
    results: str = "",
) -> str:
    """A notice: how the run stands in a line, then its jobs, then the results, if there are any.

    Args:
        happening: why it is sent.
        status: of the run.
        now: Unix time, s.
        what: more about it, such as what failed.
        price: for what was spent; None = hours only.
        results: the table of what was measured.
    """
    state = status.state if happening == "finished" else happening
    took = clock(max(0.0, (status.ended or now) - status.started)) if status.started else ""
    head = [f"{status.run}: {state}", f"after {took}" if took and happening != "started" else ""]
    left = time_left(status) if happening != "finished" else None
    head.append(f"{clock(left)} left for what runs" if left else "")
    hours = status.hours(now)
    spent = [f"{used:.3g} {device}-hours" for device, used in hours.items() if used]
    head += [*spent, price.text(price.of(hours)) if price and spent else ""]
    jobs = "\n".join(_job_lines(status, now))
    parts = [", ".join(one for one in head if one), what, jobs and f"```\n{jobs}\n```"]
    return "\n".join(one for one in [*parts, results and f"```\n{results}\n```"] if one)


def time_left(status: RunStatus) -> float | None:
    """Seconds until the last of the running jobs is done at its rate; None if that is unknown."""
    left = [job.eta_s() for job in status.jobs.values() if job.state == "running"]
    known = [one for one in left if one is not None]
    return max(known) if known else None


def _job_lines(status: RunStatus, now: float) -> list[str]:
    names = list(status.jobs)
    width = max((len(name) for name in names[:MOST_JOBS]), default=0)
    lines = [
        f"{name.ljust(width)}  {_job_line(status.jobs[name], now)}" for name in names[:MOST_JOBS]
    ]
    if len(names) > MOST_JOBS:
        counts = ", ".join(f"{count} {state}" for state, count in status.counts().items())
        lines.append(f"... {len(names)} jobs in all: {counts}")
    return lines


def _job_line(job: JobStatus, now: float) -> str:
    parts: list[str] = [job.state]
    if job.state == "running":
        parts += [f"{job.done:,} of {job.total:,}"] if job.total else []
        eta = job.eta_s()
        parts += [f"{clock(eta)} left"] if eta else []
    elif job.started and job.ended:
        parts.append(clock(job.seconds(now)))
    if job.state in ("failed", "blocked", "stopped") and job.message:
        parts.append(job.message.splitlines()[0][:200])
    return ", ".join(parts)


class Stall:
    """Whether a run has made no progress for a while; says so once, until it goes on.

    Args:
        after_s: how long, s.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._seen: tuple[object, ...] = ()
        self._since = 0.0
        self._said = False

    def begins(self, status: RunStatus, now: float) -> str:
        """Why the run counts as stalled from now on; "" if it does not, or was said before."""
        seen = tuple((job.state, job.done, job.attempt) for job in status.jobs.values())
        if seen != self._seen:
            self._seen, self._since, self._said = seen, now, False
        if self._said or now - self._since < self._after_s:
            return ""
        self._said = True
        waits = f": {status.waiting}" if status.waiting else ""
        return f"no progress of any job for {clock(now - self._since)}{waits}"
