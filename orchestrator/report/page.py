"""Puts what is known of a run into the page."""

import base64
import time
from typing import Any

from slimctl.jobs.base.artifacts import QualityReport, SubsetQuality
from slimctl.orchestrator.cli.live import clock
from slimctl.orchestrator.comparison.table import notes, table
from slimctl.orchestrator.report.charts import MOST_CURVES, curves_svg, front_svg
from slimctl.orchestrator.report.gather import RunPage
from slimctl.orchestrator.report.template import PAGE, STYLE

MOST_CLASSES = 100


def render(page: RunPage) -> str:
    """The page as HTML; everything that people wrote is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup

    status, comparison = page.status, page.comparison
    fields: dict[str, Any] = {
        "style": Markup(STYLE),
        "run": status.run,
        "name": status.name or status.run,
        "state": status.state,
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(status.started)),
        "took": clock(status.ended - status.started) if status.ended else "",
        "chosen": page.chosen,
        "table": table(comparison) if comparison else None,
        "notes": notes(comparison) if comparison else [],
        "front": Markup(front_svg(comparison)) if comparison else "",
        "sheets": [
            {"name": name, "source": _png(sheet), "told": _told(page.reports[name])}
            for name, sheet in page.sheets.items()
        ],
        "trajectories": [
            {"name": name, "source": _png(one)} for name, one in page.trajectories.items()
        ],
        "parts": _parts(page),
        "curves": [
            (metric, Markup(curves_svg(metric, curves))) for metric, curves in page.curves.items()
        ],
        "jobs": _jobs(page),
        "remarks": [*page.remarks, *_left_out(page)],
        "versions": list(page.versions.items()),
        "pipeline": page.pipeline,
    }
    return Environment(autoescape=True).from_string(PAGE).render(fields)


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _told(report: QualityReport) -> str:
    return f"{report.solver}, FID {report.fid:.2f}, {report.parameters:,} weights"


def _parts(page: RunPage) -> tuple[list[str], list[list[str]]] | None:
    """A column for each model that was measured by class or part, a row for each of those."""
    measured = {name: [*one.parts, *one.classes] for name, one in page.reports.items()}
    measured = {name: subsets for name, subsets in measured.items() if subsets}
    if not measured:
        return None
    rows: dict[tuple[int, ...], list[str]] = {}
    for subsets in measured.values():
        for one in subsets:
            rows.setdefault(one.labels, [_labels(one)])
    for subsets in measured.values():
        fids = {one.labels: f"{one.fid:.2f}" for one in subsets}
        for labels, row in rows.items():
            row.append(fids.get(labels, "-"))
    return list(measured), list(rows.values())[:MOST_CLASSES]


def _left_out(page: RunPage) -> list[str]:
    """What the page has no room for."""
    lines = [
        f"{metric}: the curves of {len(curves) - MOST_CURVES} more jobs are not drawn"
        for metric, curves in page.curves.items()
        if len(curves) > MOST_CURVES
    ]
    subsets = {one.labels for report in page.reports.values() for one in report.classes}
    if len(subsets) > MOST_CLASSES:
        lines.append(f"of {len(subsets)} classes the first {MOST_CLASSES} are listed")
    return lines


def _labels(subset: SubsetQuality) -> str:
    shown = ", ".join(map(str, subset.labels[:12]))
    return f"{'class' if len(subset.labels) == 1 else 'classes'} {shown}"


def _jobs(page: RunPage) -> list[dict[str, Any]]:
    """Each job with its place in the time of the run, in per cent."""
    jobs = page.status.jobs
    starts = [job.started for job in jobs.values() if job.started]
    ends = [job.ended for job in jobs.values() if job.ended]
    first, last = min(starts, default=0.0), max(ends, default=0.0)
    span = max(last - first, 1e-9)
    rows = []
    for name, job in jobs.items():
        timed = job.started is not None and job.ended is not None
        took = (job.ended or 0.0) - (job.started or 0.0) if timed else 0.0
        rows.append(
            {
                "name": name,
                "kind": job.kind,
                "state": job.state,
                "took": clock(took) if timed else "",
                "left": round(100 * ((job.started or first) - first) / span, 2),
                "width": round(100 * took / span, 2) if timed else None,
                "after": ", ".join(job.after),
                "message": job.message if job.state in ("failed", "blocked") else "",
            }
        )
    return rows
