"""Draws the jobs of configs/slimflow.yaml and what they hand on, into docs/images/demo.svg.

    .venv/bin/python docs/draw_demo.py

Run again when the demo's jobs change: the README shows the picture.
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from slimctl.jobs.base.registry import kind_of
from slimctl.orchestrator.pipeline.pipeline import load_pipeline
from slimctl.orchestrator.planning.graph import Graph

ROOT = Path(__file__).parents[1]
PLACES = {
    "data": (0, 0), "features": (1, 1), "teacher": (1, 0), "pairs": (2, 0), "student": (3, 0),
    "one_step": (4, 0),
}  # fmt: skip
"""Column and row of the chain; the evaluations stand below their models."""
WIDTH, HEIGHT = 1.5, 0.62
STEP_X, STEP_Y = 2.15, 1.0
COLORS = {"evaluate": "#fff3d6", "load_dataset": "#e3ecf7", "train_features": "#e3ecf7"}
MADE = "#dff0e3"
MAIN = "#37474f"


def main() -> None:
    """Writes the picture."""
    mpl.rcParams["svg.hashsalt"] = "slimctl"
    pipeline = load_pipeline(ROOT / "configs" / "slimflow.yaml").pipeline
    graph = Graph.of(pipeline)
    places = _places(graph, {name: kind_of(spec) for name, spec in pipeline.specs.items()})
    figure, axes = plt.subplots(figsize=(9.6, 4.1))
    for name, spec in pipeline.specs.items():
        used = dict(graph.edges[name])
        if kind_of(spec) == "evaluate":  # they all take data and features, too
            used = {"model": used["model"]}
        for source in sorted(set(used.values())):
            _arrow(axes, places[source], places[name])
        _box(axes, places[name], name, kind_of(spec))
    axes.text(
        0, -3 * STEP_Y, "every evaluation also takes\ndata and features",
        ha="center", va="center", fontsize=8.5, color=MAIN, style="italic",
    )  # fmt: skip
    axes.set(xlim=(-0.9, 4 * STEP_X + 0.9), ylim=(-3 * STEP_Y - 0.5, STEP_Y + 0.45), aspect="equal")
    axes.axis("off")
    target = ROOT / "docs" / "images" / "demo.svg"
    figure.savefig(target, bbox_inches="tight", facecolor="white", metadata={"Date": None})


def _places(graph: Graph, kinds: dict[str, str]) -> dict[str, tuple[float, float]]:
    places = {name: (column * STEP_X, row * STEP_Y) for name, (column, row) in PLACES.items()}
    below: dict[str, int] = {}
    for name in graph.order:
        if kinds[name] == "evaluate":
            model = dict(graph.edges[name])["model"]
            below[model] = below.get(model, 0) + 1
            places[name] = (places[model][0], -below[model] * STEP_Y)
    return places


def _box(axes: plt.Axes, place: tuple[float, float], name: str, kind: str) -> None:
    x, y = place
    axes.add_patch(
        FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0.02",
            facecolor=COLORS.get(kind, MADE), edgecolor=MAIN, linewidth=1, zorder=3,
        )
    )  # fmt: skip
    axes.text(x, y + 0.12, name, ha="center", va="center", fontsize=10, weight="bold", zorder=4)
    axes.text(x, y - 0.15, kind, ha="center", va="center", fontsize=8, color=MAIN, zorder=4)


def _arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    (x0, y0), (x1, y1) = start, end
    if x0 == x1:  # an evaluation: down the left side of its model
        start, end = (x0 - WIDTH / 2, y0), (x1 - WIDTH / 2, y1)
        curve = f"arc3,rad={0.5 / max(1, abs(y1 - y0)):.2f}"
    elif y0 == y1 and abs(x1 - x0) > STEP_X * 1.1:
        start, end, curve = (x0, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2), "arc3,rad=-0.3"
    else:
        start, end = (x0 + WIDTH / 2, y0), (x1 - WIDTH / 2, y1)
        curve = "arc3,rad=0"
    axes.add_patch(
        FancyArrowPatch(
            start, end, connectionstyle=curve, arrowstyle="-|>", mutation_scale=11,
            color=MAIN, linewidth=1.1, zorder=2, shrinkA=2, shrinkB=3,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
