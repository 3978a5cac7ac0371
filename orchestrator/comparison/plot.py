"""The picture of a comparison: FID against parameters, with the Pareto front."""

from pathlib import Path

from jobs.base.errors import UserError
from orchestrator.comparison.pool import Comparison
from orchestrator.comparison.protocol import protocol_text

MOST_NAMES = 30
"""Rows up to which every point is named; beyond, only those of the front are."""


def save_plot(comparison: Comparison, file: Path) -> None:
    """Writes the picture in the format that the file's ending names.

    Raises:
        UserError: it cannot be written there.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for row in comparison.rows:
        size, fid = row.numbers["parameters"].mean, row.numbers["fid"]
        colour = "C0" if row.front else "0.6"
        axes.errorbar(size, fid.mean, yerr=fid.half, fmt="o", color=colour, capsize=3)
        if row.front or len(comparison.rows) <= MOST_NAMES:
            at = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
            axes.annotate(row.name, (size, fid.mean), fontsize=7, **at)
    front = sorted(
        (row.numbers["parameters"].mean, row.numbers["fid"].mean)
        for row in comparison.rows
        if row.front
    )
    axes.step(*zip(*front, strict=True), where="post", color="C0", linewidth=1, alpha=0.6)
    axes.margins(x=0.15)
    axes.set(xscale="log", xlabel="parameters", ylabel="FID", ylim=(0, None))
    axes.set_title(f"FID: {protocol_text(comparison.protocol)}", fontsize=8)
    axes.grid(alpha=0.3)
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--plot {file}", f"cannot be written: {reason}", "name a .png") from error
    finally:
        plt.close(figure)
