"""What a run made, as data and as the table at its end."""

import time
from typing import Any

from jobs.base.artifacts import FidProtocol, QualityReport
from jobs.base.errors import DamagedArtifact
from jobs.storage.store import Store
from orchestrator.status import RunStatus

COLUMNS = (
    "model", "solver", "parameters", "MACs", "NFE", "FID", "KID", "precision", "recall", "latency",
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
    for name, job in status.jobs.items():
        if job.state not in ("done", "reused"):
            continue
        try:
            handle = store.load_any(job.artifact)
        except DamagedArtifact:
            continue
        if isinstance(handle, QualityReport):
            found[name] = handle
    return dict(sorted(found.items(), key=lambda item: (-item[1].parameters, -item[1].nfe)))


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
            f"{report.latency_ms:.2f} ms",
        )
        for name, report in reports.items()
    ]


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
