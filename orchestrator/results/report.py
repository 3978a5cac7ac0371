"""The page about a run: everything that the storage has on it, in HTML that stands by itself.

Pictures are SVG in the page's colours, light or dark.
"""

import base64
import io
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimctl.jobs.base.artifacts import Flow, QualityReport
from slimctl.jobs.base.errors import DamagedArtifact, SlimError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.results.collect import chosen_lines, collect, quality_reports
from slimctl.orchestrator.results.lineage import Lineage
from slimctl.orchestrator.results.pool import Comparison, compare
from slimctl.orchestrator.results.prices import price_of
from slimctl.orchestrator.results.render import draw_front, is_wide, notes, table
from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.runs import read_pipeline, read_run, run_ids
from slimctl.orchestrator.runs.status import RunStatus, clock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = list[tuple[int, float]]
"""(step, value), rising steps."""
MOST_POINTS = 400
MOST_RUNS = 50
"""Earlier runs that are looked through for the curves of what was not made again."""
MOST_FLOP = 5e12
"""Work of one picture that nobody minds waiting for."""
MOST_FLOWS = 4
CURVES = ("loss", "accuracy", "score", "val_return", "return")
"""Metrics of trainings that are drawn."""
INK = "#010203"
"""Stands for the colour of the page's text while matplotlib draws."""
MOST_CURVES = 12
_HEAD = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg[^>]*?) height="[^"]*"')
MOST_CLASSES = 100


@dataclass(frozen=True)
class RunPage:
    """What is known of a run: the fields of its page."""

    status: RunStatus
    comparison: Comparison | None
    """Of everything it measured; None = nothing, or FIDs that do not compare."""
    reports: Mapping[str, QualityReport]
    """Job -> measurement, the largest model first."""
    curves: Mapping[str, Mapping[str, Curve]]
    """Metric -> job -> curve."""
    chosen: list[str]
    """Sentences about the model to take."""
    pipeline: str
    versions: Mapping[str, str]
    sheets: Mapping[str, bytes]
    """Job -> PNG of its samples."""
    trajectories: Mapping[str, bytes]
    """Job -> PNG of samples on their way from noise."""
    remarks: list[str]
    """What is not shown, and why."""


def gather(store: Store, run: str, *, trajectories: bool = True) -> RunPage:
    """Reads a run; `trajectories` follows some samples of its flows, which evaluates them.

    Raises:
        DamagedArtifact: the run's pipeline is damaged.
    """
    status, log = read_run(store.blobs, run)
    remarks = list(log.damaged)
    reports = quality_reports(store, status)
    comparison: Comparison | None = None
    if reports:
        try:
            found = collect(store, [run], {})
            comparison = compare(found, Lineage(store), price=price_of((), store, [run]))
        except SlimError as error:
            remarks.append(f"no common table: {error.what}")
    chosen: list[str] = []
    try:
        chosen = chosen_lines(store, status)
    except SlimError as error:
        remarks.append(str(error))
    sheets: dict[str, bytes] = {}
    for name, report in reports.items():
        try:
            sheets[name] = store.file(report, report.sheet).read_bytes()
        except (DamagedArtifact, OSError) as error:
            remarks.append(f"no samples of {name}: {error}")
    followed: dict[str, bytes] = {}
    if trajectories:
        followed, unread = _follow_flows(store, reports)
        remarks += unread
    return RunPage(
        status=status,
        comparison=comparison,
        reports=reports,
        curves=curves_of([*_earlier(store, status), *log.events]),
        chosen=[*chosen, *(_best(reports) if comparison else [])],
        pipeline=read_pipeline(store.blobs, run),
        versions=_versions(store, status),
        sheets=sheets,
        trajectories=followed,
        remarks=remarks,
    )


def _follow_flows(
    store: Store, reports: Mapping[str, QualityReport]
) -> tuple[dict[str, bytes], list[str]]:
    """A picture for each measured flow, all from the same noise; and what was left out, why."""
    from slimctl.jobs.export.samples import FOLLOWED, FOLLOWED_STEPS, picture_of_flow

    pictures: dict[str, bytes] = {}
    remarks: list[str] = []
    seen: set[str] = set()
    for name, report in reports.items():
        if report.model_type != "Flow" or report.model in seen or len(pictures) >= MOST_FLOWS:
            continue
        seen.add(report.model)
        if 2.0 * report.macs * FOLLOWED_STEPS * FOLLOWED > MOST_FLOP:
            remarks.append(f"no trajectories of {name}: its network is too large to follow here")
            continue
        try:
            pictures[name] = picture_of_flow(store, store.load(report.model, Flow))
        except SlimError as error:
            remarks.append(f"no trajectories of {name}: {error}")
    return pictures, remarks


def _earlier(store: Store, status: RunStatus) -> list[Event]:
    """Progress of the jobs that this run found in the store, from the runs that made them."""
    wanted = {job.artifact: name for name, job in status.jobs.items() if job.state == "reused"}
    found: list[Event] = []
    for run in [one for one in run_ids(store.blobs) if one != status.run][::-1][:MOST_RUNS]:
        if not wanted:
            break
        other, log = read_run(store.blobs, run)
        made = {
            name: wanted.pop(job.artifact)
            for name, job in other.jobs.items()
            if job.state == "done" and job.artifact in wanted
        }
        found += [
            event.model_copy(update={"job": made[event.job]})
            for event in log.events
            if event.name == "progress" and event.job in made
        ]
    return found


def curves_of(events: list[Event]) -> dict[str, dict[str, Curve]]:
    """Metric -> job -> its points; a job that began again keeps the later values."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for event in events:
        if event.name != "progress":
            continue
        for metric, value in event.details.get("metrics", {}).items():
            if metric in CURVES:
                points = found.setdefault(metric, {}).setdefault(event.job, {})
                points[int(event.details["done"])] = float(value)
    return {
        metric: {job: _thinned(points) for job, points in jobs.items() if len(points) > 1}
        for metric, jobs in found.items()
        if any(len(points) > 1 for points in jobs.values())
    }


def _thinned(points: Mapping[int, float]) -> Curve:
    ordered = sorted(points.items())
    every = -(-len(ordered) // MOST_POINTS)
    return [*ordered[::every], *(ordered[-1:] if (len(ordered) - 1) % every else [])]


def _best(reports: Mapping[str, QualityReport]) -> list[str]:
    """The best one-step model, and what it is against the best of all."""
    one_step = {name: report for name, report in reports.items() if report.nfe == 1}
    if not one_step:
        return []
    name = min(one_step, key=lambda each: one_step[each].fid)
    best, first = one_step[name], min(reports.values(), key=lambda each: each.fid)
    line = (
        f"{name}: the lowest FID in one evaluation, {best.fid:.2f} with {best.parameters:,} "
        f"weights and {best.latency_ms:.2f} ms"
    )
    if first is not best:
        line += (
            f"; the best of all has {first.fid:.2f} with {first.parameters:,} weights, "
            f"{first.nfe:g} evaluations and {first.latency_ms:.2f} ms"
        )
    return [line]


def _versions(store: Store, status: RunStatus) -> dict[str, str]:
    """Versions and devices of the machines that made the results, and of this program."""
    found: dict[str, set[str]] = {}
    for job in status.jobs.values():
        if job.state in ("done", "reused"):
            try:
                manifest = store.manifest(job.artifact)
            except DamagedArtifact:
                continue
            for key, value in (manifest.engine if manifest else {}).items():
                if key in ("torch", "device", "devices", "ray", "python", "precision"):
                    each = value if isinstance(value, list) else [value]
                    found.setdefault(key, set()).update(map(str, each))
    versions = {key: ", ".join(sorted(values)) for key, values in sorted(found.items())}
    return versions | {"this page": f"Python {platform.python_version()}"}


def render(page: RunPage, *, reload_s: float | None = None) -> str:
    """The page as HTML; everything that people wrote is escaped.

    `reload_s` has a browser read the file again so often, s; None = never.
    """
    from jinja2 import Environment
    from markupsafe import Markup

    comparison = page.comparison
    environment = Environment(autoescape=True)
    environment.filters |= {"clock": clock, "png": _png}
    text = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        vars(page),
        reload_s=reload_s,
        spent=_spent(page),
        began=time.strftime("%Y-%m-%d %H:%M", time.localtime(page.status.started)),
        table=table(comparison) if comparison else None,
        notes=notes(comparison) if comparison else [],
        front=Markup(front_svg(comparison)) if comparison else "",
        parts=_parts(page),
        pictures={metric: Markup(curves_svg(metric, each)) for metric, each in page.curves.items()},
        jobs=_jobs(page),
        remarks=[*page.remarks, *_left_out(page)],
    )


def _spent(page: RunPage) -> list[str]:
    """What the run's own jobs took, whatever was made before."""
    hours = page.status.hours(page.status.ended or time.time())
    price = page.comparison.price if page.comparison else None
    lines = [f"{used:.3g} {device}-hours" for device, used in hours.items() if used]
    return [*lines, price.text(price.of(hours))] if price and lines else lines


def _png(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _parts(page: RunPage) -> tuple[list[str], list[list[str]]] | None:
    """A column for each model that was measured by class or part, a row for each of those."""
    every = {name: (*one.parts, *one.classes) for name, one in page.reports.items()}
    measured = {name: {one.labels: one.fid for one in subsets} for name, subsets in every.items()}
    measured = {name: fids for name, fids in measured.items() if fids}
    rows = [
        [_labels(one), *(f"{fids[one]:.2f}" if one in fids else "-" for fids in measured.values())]
        for one in dict.fromkeys(one for fids in measured.values() for one in fids)
    ]
    return (list(measured), rows[:MOST_CLASSES]) if measured else None


def _labels(labels: Sequence[int]) -> str:
    return f"{'class' if len(labels) == 1 else 'classes'} {', '.join(map(str, labels[:12]))}"


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


def _jobs(page: RunPage) -> list[dict[str, Any]]:
    """Each job with its place in the time of the run, in per cent."""
    jobs = page.status.jobs
    first = min((job.started for job in jobs.values() if job.started), default=0.0)
    last = max((job.ended for job in jobs.values() if job.ended), default=0.0)
    span = max(last - first, 1e-9)
    rows = []
    for name, job in jobs.items():
        row: dict[str, Any] = {"name": name, "job": job, "took": None}
        if job.started is not None and job.ended is not None:
            took = job.ended - job.started
            left = round(100 * (job.started - first) / span, 2)
            row |= {"took": took, "left": left, "width": round(100 * took / span, 2)}
        rows.append(row)
    return rows


def front_svg(comparison: Comparison) -> str:
    """FID against what a sample costs."""
    with _figure() as figure:
        draw_front(comparison, figure.subplots())
        return _svg(figure)


def curves_svg(metric: str, curves: Mapping[str, Curve]) -> str:
    """A metric of trainings by step."""
    with _figure() as figure:
        axes = figure.subplots()
        values: list[float] = []
        for job, points in list(curves.items())[:MOST_CURVES]:
            steps, numbers = zip(*points, strict=True)
            values += numbers
            axes.plot(steps, numbers, linewidth=1.2, label=job)
        axes.set(xlabel="step", ylabel=metric, yscale="log" if is_wide(values) else "linear")
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)
        return _svg(figure)


@contextmanager
def _figure() -> Iterator["Figure"]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    settings: dict[str, Any] = {
        name: INK
        for name in (
            "text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color",
            "axes.titlecolor",
        )
    }  # fmt: skip
    settings |= {"svg.fonttype": "path", "svg.hashsalt": "slimctl", "font.size": 9}
    with mpl.rc_context(settings):
        figure = plt.figure(figsize=(7, 4), dpi=100, layout="constrained")
        try:
            yield figure
        finally:
            plt.close(figure)


def _svg(figure: "Figure") -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = _HEAD.sub("", out.getvalue()).replace(INK, "currentColor")
    return _SIZE.sub(lambda found: found[1] or found[2], text, count=1).strip()
