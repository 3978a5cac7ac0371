"""Plain and readable tables on stdout."""

from collections.abc import Sequence

from slimctl.jobs.base.artifacts import QualityReport, StepReport
from slimctl.jobs.base.cluster import Cluster
from slimctl.orchestrator.cli.collapse import collapsed, counted
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.estimate import Estimate
from slimctl.orchestrator.plan import RunPlan
from slimctl.orchestrator.results import (
    COLUMNS,
    STEP_COLUMNS,
    floor_text,
    latency_notes,
    part_lines,
    protocol_notes,
    quality_rows,
    short_count,
    step_rows,
    step_verdict,
)

COST = ("parameters", "MACs", "PFLOP", "GPU-hours")
"""The last one only where a rate is assumed."""
NUMERIC = frozenset("<-0123456789")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns aligned: numbers to the right, words to the left."""
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    right = [
        bool(rows) and all(str(row[column])[:1] in NUMERIC for row in rows)
        for column in range(len(head))
    ]
    echo(_line(head, widths, right))
    echo("  ".join("-" * width for width in widths))
    for row in rows:
        echo(_line(row, widths, right))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [
        str(cell).rjust(width) if to_right else str(cell).ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def print_quality(reports: dict[str, QualityReport], lines: Sequence[str] = ()) -> None:
    """The table at the end of a run, and what its sweeps chose; nothing if it measured nothing."""
    if not reports:
        return
    print_table(COLUMNS, quality_rows(reports))
    floor = next(iter(reports.values()))
    echo(f"{floor_text(floor)}; latency at batch 1 on {floor.device}, {floor.threads} thread(s)")
    told = [*part_lines(reports), *protocol_notes(reports), *latency_notes(reports.values())]
    for line in [*told, *lines]:
        echo(line)


def print_plan(plan: RunPlan, found: Estimate, here: Cluster) -> None:
    """The table of a plan: what is done for each job, what it costs, and what that rests on.

    Args:
        plan: what to do.
        found: what it costs.
        here: devices of this machine.
    """
    jobs = {job.name: job for job in plan.jobs}
    known = COST if found.tflops else COST[:-1]
    rows = []
    for row in collapsed(jobs):
        mine = [jobs[name] for name in row.jobs]
        action, reason = counted(job.action for job in mine), counted(job.reason for job in mine)
        artifact = "" if row.together else mine[0].artifact
        cost = _cost(found, row.jobs)
        rows.append((row.name, mine[0].kind, action, reason, *cost[: len(known)], artifact))
    head = ("job", "kind", "action", "why", *known, "artifact")
    print_table(head, rows)
    echo(f"to run: {_short(found.total_pflop)} PFLOP{_hours(found, here)}")
    for line, names in found.assumed().items():
        echo(f"assumed: {line} ({', '.join(row.name for row in collapsed(names))})")


def _hours(found: Estimate, here: Cluster) -> str:
    """The hours of all that is to run, of which device, and what they rest on."""
    if found.tflops is None or found.total_gpu_hours is None:
        return (
            f"; how long that takes is not known: here are {here.cpus} CPUs and no GPU, and no "
            "rate of CPUs is assumed; --tflops 40 gives the hours of a GPU at that rate"
        )
    elsewhere = "" if here.gpus else "; this machine has none"
    return (
        f", {_short(found.total_gpu_hours)} GPU-hours at {found.tflops:g} TFLOP/s a GPU (assumed, "
        f"not measured; change it with --tflops{elsewhere})"
    )


def _cost(found: Estimate, jobs: Sequence[str]) -> tuple[str, ...]:
    """Size of the network, or of the smallest and largest of several, and the work of all jobs."""
    work = [found.work[job] for job in jobs if job in found.work]
    if len(work) < len(jobs):
        return ("-", "-", "-", "-")
    sizes = sorted({one.parameters for one in work})
    macs = sorted({one.macs for one in work})
    return (
        " - ".join(f"{size:,}" for size in _ends(sizes)),
        " - ".join(short_count(number) for number in _ends(macs)),
        _short(sum(found.pflop(job) or 0.0 for job in jobs)),
        _short(sum(found.gpu_hours(job) or 0.0 for job in jobs)),
    )


def _ends(ordered: list[int]) -> list[int]:
    return ordered if len(ordered) == 1 else [ordered[0], ordered[-1]]


LEAST = 0.001


def _short(number: float) -> str:
    """Three digits, without an exponent; less than a thousandth is said to be that."""
    if 0 < number < LEAST:
        return f"<{LEAST}"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def print_steps(reports: dict[str, StepReport]) -> None:
    """A table for each report on step policies; nothing if there is none."""
    for name, report in reports.items():
        echo(f"\n{name}: {report.episodes} test episodes")
        print_table(STEP_COLUMNS, step_rows(report.rows))
        if report.transfer:
            echo("\nother integrators, without retraining")
            print_table(STEP_COLUMNS, step_rows(report.transfer))
        echo(
            f"policies return {report.policy_return:.3f}, the best fixed steps "
            f"({report.best_fixed}) {report.best_fixed_return:.3f}; bad is an error above "
            f"{report.bad_error:g}"
        )
        for line in step_verdict(report):
            echo(line)
