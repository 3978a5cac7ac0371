"""Everything that a page about a run shows, read from the storage."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from slimctl.jobs.base.artifacts import QualityReport
from slimctl.jobs.base.errors import DamagedArtifact, SlimError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.comparison.collect import collect
from slimctl.orchestrator.comparison.lineage import Lineage
from slimctl.orchestrator.comparison.pool import Comparison, compare
from slimctl.orchestrator.events import Event
from slimctl.orchestrator.results import chosen_lines, quality_reports
from slimctl.orchestrator.runs import read_pipeline, read_run, run_ids
from slimctl.orchestrator.status import RunStatus

Curve = list[tuple[int, float]]
"""(step, value), rising steps."""
MOST_POINTS = 400
MOST_RUNS = 50
"""Earlier runs that are looked through for the curves of what was not made again."""
CURVES = ("loss", "accuracy", "score", "val_return", "return")
"""Metrics of trainings that are drawn."""


@dataclass(frozen=True)
class RunPage:
    """What is known of a run.

    Args:
        status: of its jobs.
        comparison: of everything it measured; None = nothing, or FIDs that do not compare.
        reports: job -> measurement, the largest model first.
        curves: metric -> job -> curve.
        chosen: sentences about the model to take.
        pipeline: the resolved file.
        versions: what it was made with.
        sheets: job -> PNG of its samples.
        trajectories: job -> PNG of samples on their way from noise.
        remarks: what is not shown, and why.
    """

    status: RunStatus
    comparison: Comparison | None
    reports: Mapping[str, QualityReport]
    curves: Mapping[str, Mapping[str, Curve]]
    chosen: list[str]
    pipeline: str
    versions: Mapping[str, str]
    sheets: Mapping[str, bytes] = field(default_factory=dict)
    trajectories: Mapping[str, bytes] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def gather(store: Store, run: str, *, trajectories: bool = True) -> RunPage:
    """Reads a run.

    Args:
        store: where it is.
        run: run id.
        trajectories: whether to follow some samples of its flows, which takes network evaluations.

    Raises:
        DamagedArtifact: the run's pipeline is damaged.
    """
    status, log = read_run(store.blobs, run)
    remarks = list(log.damaged)
    reports = quality_reports(store, status)
    comparison: Comparison | None = None
    if reports:
        try:
            comparison = compare(collect(store, [run], {}), Lineage(store))
        except SlimError as error:
            remarks.append(f"no common table: {error.what}")
    sheets: dict[str, bytes] = {}
    for name, report in reports.items():
        try:
            sheets[name] = store.file(report, report.sheet).read_bytes()
        except (DamagedArtifact, OSError) as error:
            remarks.append(f"no samples of {name}: {error}")
    followed: dict[str, bytes] = {}
    if trajectories:
        from slimctl.orchestrator.report.trajectories import follow_flows

        followed, untold = follow_flows(store, reports)
        remarks += untold
    return RunPage(
        status=status,
        comparison=comparison,
        reports=reports,
        curves=curves_of([*_earlier(store, status), *log.events]),
        chosen=_chosen(store, status, reports, remarks, compared=comparison is not None),
        pipeline=read_pipeline(store.blobs, run),
        versions=_versions(store, status),
        sheets=sheets,
        trajectories=followed,
        remarks=tuple(remarks),
    )


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


def _chosen(
    store: Store,
    status: RunStatus,
    reports: Mapping[str, QualityReport],
    remarks: list[str],
    *,
    compared: bool,
) -> list[str]:
    try:
        lines = chosen_lines(store, status)
    except SlimError as error:
        remarks.append(str(error))
        lines = []
    return [*lines, *(_best(reports) if compared else [])]


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
    told = {key: ", ".join(sorted(values)) for key, values in sorted(found.items())}
    return told | {"this page": f"Python {platform.python_version()}"}
