"""Plain and readable tables on stdout."""

from collections.abc import Sequence

import typer

from jobs.base.artifacts import QualityReport
from orchestrator.results import COLUMNS, quality_rows

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


def print_quality(reports: dict[str, QualityReport], lines: Sequence[str] = ()) -> None:
    """The table at the end of a run, and what its sweeps chose; nothing if it measured nothing."""
    if not reports:
        return
    print_table(COLUMNS, quality_rows(reports))
    floor = next(iter(reports.values()))
    typer.echo(
        f"FID of {floor.samples} real images drawn with replacement: {floor.fid_real:.2f}; "
        f"latency at batch 1 on {floor.device}, {floor.threads} thread(s)"
    )
    for line in lines:
        typer.echo(line)
