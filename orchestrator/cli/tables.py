"""Plain and readable tables on stdout."""

from collections.abc import Sequence

import typer

from jobs.base.artifacts import QualityReport, StepReport
from orchestrator.results import COLUMNS, STEP_COLUMNS, quality_rows, step_rows

NUMERIC = frozenset("-0123456789")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns aligned: numbers to the right, words to the left."""
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    right = [
        bool(rows) and all(str(row[column])[:1] in NUMERIC for row in rows)
        for column in range(len(head))
    ]
    typer.echo(_line(head, widths, right))
    typer.echo("  ".join("-" * width for width in widths))
    for row in rows:
        typer.echo(_line(row, widths, right))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [
        str(cell).rjust(width) if to_right else str(cell).ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def print_quality(reports: dict[str, QualityReport]) -> None:
    """The table at the end of a run; nothing if it measured nothing."""
    if not reports:
        return
    print_table(COLUMNS, quality_rows(reports))
    floor = next(iter(reports.values()))
    typer.echo(
        f"FID of {floor.samples} real images drawn with replacement: {floor.fid_real:.2f}; "
        f"latency at batch 1 on {floor.device}, {floor.threads} thread(s)"
    )


def print_steps(reports: dict[str, StepReport]) -> None:
    """A table for each report on step policies; nothing if there is none."""
    for name, report in reports.items():
        typer.echo(f"\n{name}: {report.episodes} test episodes")
        print_table(STEP_COLUMNS, step_rows(report.rows))
        if report.transfer:
            typer.echo("\nother integrators, without retraining")
            print_table(STEP_COLUMNS, step_rows(report.transfer))
        typer.echo(
            f"policies return {report.policy_return:.3f}, the best fixed steps "
            f"({report.best_fixed}) {report.best_fixed_return:.3f}; bad is an error above "
            f"{report.bad_error:g}"
        )
