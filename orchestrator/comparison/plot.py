"""The picture of a comparison: FID against parameters, with the Pareto front."""

from pathlib import Path
from typing import TYPE_CHECKING

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.comparison.pool import Comparison
from slimctl.orchestrator.comparison.protocol import protocol_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 30
"""Rows up to which every point is named; beyond, only those of the front are."""

WIDE = 20
"""Largest FID over the smallest from which on the axis is logarithmic."""
LINE_PT = 8.0
"""Height of a name, points."""


def save_plot(comparison: Comparison, file: Path) -> None:
    """Writes the picture in the format that the file's ending names.

    Raises:
        UserError: it cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    draw_front(comparison, axes)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--plot {file}", f"cannot be written: {reason}", "name a .png") from error
    finally:
        plt.close(figure)


def draw_front(comparison: Comparison, axes: "Axes") -> None:
    """Draws FID against parameters into empty axes."""
    for row in comparison.rows:
        size, fid = row.numbers["parameters"].mean, row.numbers["fid"]
        colour = "C0" if row.front else "0.6"
        axes.errorbar(size, fid.mean, yerr=fid.half, fmt="o", color=colour, capsize=3)
    front = sorted(
        (row.numbers["parameters"].mean, row.numbers["fid"].mean)
        for row in comparison.rows
        if row.front
    )
    axes.step(*zip(*front, strict=True), where="post", color="C0", linewidth=1, alpha=0.6)
    axes.margins(x=0.25)
    means = [row.numbers["fid"].mean for row in comparison.rows]
    wide = min(means) > 0 and max(means) > WIDE * min(means)
    axes.set(xscale="log", xlabel="parameters", ylabel="FID", yscale="log" if wide else "linear")
    if not wide:
        axes.set_ylim(0, None)
    axes.set_title(f"FID: {protocol_text(comparison.protocol)}", fontsize=8)
    axes.grid(alpha=0.3)
    axes.figure.canvas.draw()  # settles where points are, in pixels
    _name_points(comparison, axes)


def _name_points(comparison: Comparison, axes: "Axes") -> None:
    """Writes names beside points, moved up until none stands on another of the same size."""
    few = len(comparison.rows) <= MOST_NAMES
    figure = axes.get_figure(root=True)
    assert figure is not None
    point_px = figure.dpi / 72
    points = []
    for row in comparison.rows:
        if row.front or few:
            at = (row.numbers["parameters"].mean, row.numbers["fid"].mean)
            x, y = axes.transData.transform(at)
            points.append((round(x), y, at, row.name))
    lowest: dict[int, float] = {}
    for x, y, at, name in sorted(points):
        free = max(y, lowest.get(x, y))
        lowest[x] = free + LINE_PT * point_px
        up = (free - y) / point_px - 2
        axes.annotate(name, at, xytext=(5, up), textcoords="offset points", fontsize=7)
