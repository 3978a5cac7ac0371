"""Plain and readable tables on stdout.

Jobs of large groups share a row: a table of hundreds of iterations tells nobody anything.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from slimctl.jobs.base.artifacts import QualityReport, StepReport
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.memory import Memory, in_gib
from slimctl.models.metrics import short_count
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.pipeline.groups import origin_of
from slimctl.orchestrator.planning.estimate import Estimate
from slimctl.orchestrator.planning.memory import MemoryPlan
from slimctl.orchestrator.planning.plan import Forecast
from slimctl.orchestrator.results.render import (
    STEP_COLUMNS,
    as_text,
    floor_text,
    judge_notes,
    loud_notes,
    part_lines,
    protocol_notes,
    quality_table,
    step_rows,
    step_verdict,
)

COST = ("parameters", "MACs", "PFLOP", "GPU-hours")
"""The last one only where a rate is assumed."""


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns aligned: numbers to the right, words to the left."""
    echo(as_text(head, rows))


def print_quality(reports: dict[str, QualityReport], lines: Sequence[str] = ()) -> None:
    """The table at the end of a run, and what its sweeps chose; nothing if it measured nothing."""
    if not reports:
        return
    print_table(*quality_table(reports))
    floor = next(iter(reports.values()))
    echo(f"{floor_text(floor)}; latency at batch 1 on {floor.device}, {floor.threads} thread(s)")
    notes = [*part_lines(reports), *protocol_notes(reports), *judge_notes(reports)]
    notes += loud_notes(reports.values())
    for line in [*notes, *lines]:
        echo(line)


def print_plan(forecast: Forecast, here: Cluster) -> None:
    """The table of a plan: what is done for each job, what it costs, and what that rests on."""
    found = forecast.cost
    jobs = {job.name: job for job in forecast.jobs}
    known = COST if found.tflops else COST[:-1]
    rows = []
    for row in collapsed(jobs):
        mine = [jobs[name] for name in row.jobs]
        action, reason = counted(job.action for job in mine), counted(job.reason for job in mine)
        artifact = "" if row.together else mine[0].artifact
        cost = _cost(found, row.jobs)
        memory = _memory_cell(forecast.memory, row.jobs)
        rows.append((row.name, mine[0].kind, action, reason, *cost[: len(known)], memory, artifact))
    head = ("job", "kind", "action", "why", *known, "memory", "artifact")
    print_table(head, rows)
    echo(f"to run: {_short(found.total_pflop)} PFLOP{_hours(found, here)}")
    if (price := forecast.plan.price) and found.total_gpu_hours is not None:
        total = price.text(price.of({"GPU": found.total_gpu_hours}))
        most = forecast.plan.budget and forecast.plan.budget.cost
        limit = f", of a budget of {price.text(most)}" if most else ""
        echo(f"cost: {total} at {price.text(price.gpu_hour)} a GPU-hour{limit}")
    for line in _memory_lines(forecast.memory, collapsed(jobs), here):
        echo(line)
    for line, names in found.assumed().items():
        echo(f"assumed: {line} ({', '.join(row.name for row in collapsed(names))})")


def _memory_cell(found: MemoryPlan, jobs: Sequence[str]) -> str:
    """Memory of the largest of some jobs on each of its devices."""
    sizes = [found.jobs[job].total for job in jobs if job in found.jobs]
    return in_gib(max(sizes)) if sizes else "-"


def _memory_lines(found: MemoryPlan, rows: Iterable["Row"], here: Cluster) -> Iterator[str]:
    """Of what the memory of a device consists; jobs with the same figures share a line."""
    shared: dict[str, list[str]] = {}
    for row in rows:
        known = [found.jobs[job] for job in row.jobs if job in found.jobs]
        if known:
            largest = max(known, key=lambda memory: memory.total)
            shared.setdefault(_memory_parts(largest), []).append(row.name)
    if shared:
        device = "GPU" if here.gpus else "CPU worker"
        limit = f" of {in_gib(found.limit)}" if found.limit else ""
        yield f"memory of each {device}{limit}, without workspace of kernels and the driver:"
    for line, names in shared.items():
        yield f"  {', '.join(names)}: {line}"


def _memory_parts(memory: Memory) -> str:
    parts = [f"{name} {in_gib(size)}" for name, size in memory.parts.items() if size]
    cut = f" of {memory.share:,}" if memory.samples < memory.share else ""
    again = ", blocks computed again" if memory.recomputes else ""
    split = ", split over the workers" if memory.sharded else ""
    return f"{', '.join(parts)} ({memory.samples:,}{cut} samples at once{again}{split})"


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


MANY = 4
"""Iterations up to which each has rows of its own."""


@dataclass(frozen=True)
class Row:
    """One or more jobs that are shown together."""

    name: str
    """Of the job, or `students.quality x 6`."""
    jobs: tuple[str, ...]

    @property
    def together(self) -> bool:
        """Whether it stands for the same job of several iterations."""
        return self.name not in self.jobs


def collapsed(names: Iterable[str], most: int = MANY) -> list[Row]:
    """The jobs in their order; those of a group with more than `most` iterations together."""
    rows: dict[str, list[str]] = {}
    iterations: dict[str, set[str]] = {}
    for name in names:
        origin = origin_of(name)
        rows.setdefault(origin.short if origin else name, []).append(name)
        if origin:
            iterations.setdefault(origin.short, set()).add(origin.iteration)
    few = {short for short, found in iterations.items() if len(found) <= most}
    return [row for short, jobs in rows.items() for row in _rows(short, jobs, single=short in few)]


def _rows(short: str, jobs: Sequence[str], *, single: bool) -> list[Row]:
    if single or jobs == [short]:
        return [Row(name, (name,)) for name in jobs]
    return [Row(f"{short} x {len(jobs)}", tuple(jobs))]


def counted(words: Iterable[str]) -> str:
    """`4 done, 2 running`; a word that all share stands alone."""
    counts = Counter(words)
    if len(counts) == 1:
        ((word, _),) = counts.items()
        return word
    return ", ".join(f"{count} {word}" for word, count in counts.items())
