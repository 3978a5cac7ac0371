"""Pictures of a page as SVG that follows the page's colours, light or dark."""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from slimctl.orchestrator.comparison.plot import draw_front
from slimctl.orchestrator.comparison.pool import Comparison
from slimctl.orchestrator.report.gather import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#010203"
"""Stands for the colour of the page's text while matplotlib draws."""
LOG_FROM = 20.0
"""Largest value over the smallest from which on an axis is logarithmic."""
MOST_CURVES = 12
_HEAD = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>", re.DOTALL)
_SIZE = re.compile(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"|(<svg[^>]*?) height="[^"]*"')


def front_svg(comparison: Comparison) -> str:
    """FID against parameters."""
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
        wide = min(values) > 0 and max(values) > LOG_FROM * min(values)
        axes.set(xlabel="step", ylabel=metric, yscale="log" if wide else "linear")
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
