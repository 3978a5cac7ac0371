"""What a run made, as data and as the table at its end."""

import contextlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from slimctl.jobs.base.artifacts import (
    ADAPTIVE,
    FITTED,
    FidProtocol,
    Handle,
    QualityReport,
    StepReport,
    StepRow,
    SweepReport,
)
from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.status import RunStatus
from slimctl.orchestrator.sweeps import trial_jobs, verdict

COLUMNS = (
    "model", "solver", "parameters", "MACs", "NFE", "FID", "KID", "precision", "recall", "latency",
)  # fmt: skip

STEP_COLUMNS = (
    "steps", "method", "mean cost", "median error", "p90 error", "bad", "return [95 %]",
)  # fmt: skip


def run_json(store: Store, status: RunStatus) -> dict[str, Any]:
    """The run as one JSON object: run, state, and per job kind, key, state, seconds, artifact.

    `artifact` is the handle of the result, or null if there is none. A failed or blocked job also
    has `error` and `fix`.
    """
    jobs = {}
    for name, job in status.jobs.items():
        finished = job.state in ("done", "reused")
        jobs[name] = {
            "kind": job.kind,
            "key": job.key,
            "state": job.state,
            "seconds": round(job.seconds(time.time()), 3),
            "artifact": store.load_any(job.artifact).model_dump(mode="json") if finished else None,
        }
        if job.state in ("failed", "blocked"):
            jobs[name] |= {"error": job.message, "fix": job.fix}
    return {"run": status.run, "state": status.state, "jobs": jobs}


def quality_reports(store: Store, status: RunStatus) -> dict[str, QualityReport]:
    """Reports of the run's finished evaluations: the largest network first, then the most steps."""
    found: dict[str, QualityReport] = {}
    for name, handle in _finished(store, status).items():
        if isinstance(handle, QualityReport):
            found[name] = handle
        if isinstance(handle, SweepReport):
            found |= _measured(store, name, handle)
    return dict(sorted(found.items(), key=lambda item: (-item[1].parameters, -item[1].nfe)))


def _measured(store: Store, name: str, sweep: SweepReport) -> dict[str, QualityReport]:
    """What the finished trials of a sweep measured."""
    reports = {job.name: store.load_any(job.artifact) for job in trial_jobs(name, sweep)}
    return {job: one for job, one in reports.items() if isinstance(one, QualityReport)}


def chosen_lines(store: Store, status: RunStatus) -> list[str]:
    """What each finished sweep of the run chose, in a sentence."""
    lines = []
    for name, job in status.jobs.items():
        if job.state in ("done", "reused") and job.kind == "sweep":
            lines.append(f"{name}: {verdict(store.load(job.artifact, SweepReport))}")
    return lines


def step_reports(store: Store, status: RunStatus) -> dict[str, StepReport]:
    """Reports of the run's step policies, in the order of the jobs."""
    handles = _finished(store, status).items()
    return {name: handle for name, handle in handles if isinstance(handle, StepReport)}


def _finished(store: Store, status: RunStatus) -> dict[str, Handle]:
    """Results of the run's finished jobs, but damaged ones."""
    found: dict[str, Handle] = {}
    for name, job in status.jobs.items():
        if job.state in ("done", "reused"):
            with contextlib.suppress(DamagedArtifact):
                found[name] = store.load_any(job.artifact)
    return found


def step_rows(rows: Sequence[StepRow]) -> list[tuple[str, ...]]:
    """Rows of the table under `STEP_COLUMNS`."""
    return [
        (
            row.name,
            row.group,
            short_count(row.mean_cost) if row.mean_cost >= 1000 else f"{row.mean_cost:.1f}",
            "lost" if row.error is None else f"{row.error:.1e}",
            "lost" if row.error_p90 is None else f"{row.error_p90:.1e}",
            f"{100 * row.bad_share:.1f} %",
            _return_with_interval(row),
        )
        for row in rows
    ]


ENOUGH = 0.9
"""Share of a flow's samples within the tolerance at which ways to solve it are compared."""


def step_verdict(report: StepReport) -> list[str]:
    """What the table comes to: the gain over fixed steps, and a flow's cheapest good ways."""
    lines = []
    if report.advantage is not None:
        lines.append(
            f"policies less the best fixed steps, on the same episodes: {report.advantage:+.3f} "
            f"[{report.advantage_low:.3f}, {report.advantage_high:.3f}]"
        )
    if report.problem_kind == "flow":
        lines.append(_cheapest(report))
    return lines


def _cheapest(report: StepReport) -> str:
    good = [row for row in report.rows if 1.0 - row.bad_share >= ENOUGH]
    adaptive = [row for row in good if row.group in ADAPTIVE]
    ways = [[row for row in good if row.learned], [row for row in good if row.group == FITTED]]
    best = [min(rows, key=lambda row: row.mean_cost) for rows in (*ways, adaptive) if rows]
    start = f"cheapest with {100 * ENOUGH:.0f} % of the samples within {report.bad_error:g}: "
    if not adaptive:
        return start + "no tolerance of rk45 and rk23 reaches it"
    floor = best[-1].mean_cost
    told = [
        f"{row.name} ({row.mean_cost:.1f} evaluations, {row.mean_cost / floor:.2f}x)"
        for row in best
    ]
    return start + "; ".join(told)


def _return_with_interval(row: StepRow) -> str:
    if row.mean_return is None:
        return ""
    if row.return_low is None or row.return_high is None:
        return f"{row.mean_return:.3f}"
    return f"{row.mean_return:.3f} [{row.return_low:.3f}, {row.return_high:.3f}]"


def quality_rows(reports: dict[str, QualityReport]) -> list[tuple[str, ...]]:
    """Rows of the table under `COLUMNS`."""
    return [
        (
            name,
            report.solver,
            _parameters(report),
            short_count(report.macs),
            f"{report.nfe:g}" if report.nfe < 100 else f"{report.nfe:.0f}",
            f"{report.fid:.2f}",
            f"{report.kid:.3f} ± {(report.kid_high - report.kid_low) / 2:.3f}",
            f"{report.precision:.3f}",
            f"{report.recall:.3f}",
            latency_text(report.latency_ms, quiet=report.latency_quiet),
        )
        for name, report in reports.items()
    ]


LOUD = "~"


def latency_text(milliseconds: float, *, quiet: bool | None) -> str:
    """A latency, marked where the device was not quiet."""
    return f"{LOUD if quiet is False else ''}{milliseconds:.2f} ms"


def latency_notes(reports: Iterable[QualityReport]) -> list[str]:
    """What the mark before a latency means, where there is one."""
    loud = any(report.latency_quiet is False for report in reports)
    return [f"{LOUD} something else computed while this latency was measured"] if loud else []


def protocol_notes(reports: dict[str, QualityReport]) -> list[str]:
    """What the table's FIDs are, where that is not plain: of several draws, or not comparable."""
    notes = [
        f"{name}: lowest FID of {len(report.fids)} draws; mean {report.fid_mean:.2f}"
        for name, report in reports.items()
        if len(report.fids) > 1
    ]
    groups: dict[FidProtocol | None, list[str]] = {}
    for name, report in reports.items():
        groups.setdefault(report.protocol, []).append(name)
    if len(groups) > 1:
        kinds = "; ".join(", ".join(names) for names in groups.values())
        notes.append(
            f"FIDs compare only within a group (unlike features, reference or samples): {kinds}"
        )
    return notes


def _parameters(report: QualityReport) -> str:
    """Weights of one request, and of a fleet all of them."""
    if report.parameters_total <= report.parameters:
        return f"{report.parameters:,}"
    return f"{report.parameters:,} of {report.parameters_total:,}"


def floor_text(report: QualityReport) -> str:
    """What real images themselves have as FID, and how much that varies."""
    spread = ""
    if report.fid_real_sd is not None:
        draws = f"mean of {report.fid_real_draws} draws"
        spread = f" ({draws}, standard deviation {report.fid_real_sd:.2f})"
    drawn = f"FID of {report.samples} real images drawn with replacement"
    return f"{drawn}: {report.fid_real:.2f}{spread}"


def part_lines(reports: dict[str, QualityReport]) -> list[str]:
    """For each report with parts a line with the FID of every part and what routing costs."""
    lines = []
    for name, report in reports.items():
        if not report.parts:
            continue
        parts = (
            f"{','.join(map(str, part.labels))}: {part.fid:.2f} ({part.fid_real:.2f})"
            for part in report.parts
        )
        routed = "" if report.routing_us is None else f"; routing {report.routing_us:.1f} us"
        lines.append(f"{name}, FID by labels (real images): {'; '.join(parts)}{routed}")
    return lines


def short_count(number: float) -> str:
    """A large count with three digits and a letter: 4.46 M."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:  # what rounds up to the next letter takes it
            return f"{number / factor:.3g} {letter}"
    return f"{number:.0f}"
