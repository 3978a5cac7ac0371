"""Pictures of what step policies do: cost against error, a trajectory, actions, training curves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slimctl.jobs.base.artifacts import StepRow
from slimctl.jobs.steps.measure import Watched

SMALLEST_ERROR = 1e-16
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


def _figure(width: float = 7.0, height: float = 5.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def draw_pareto(rows: Sequence[StepRow], what: str, path: Path) -> None:
    """Median (filled) and 90th percentile (hollow) of the error against the median cost."""
    figure, axes = _figure()
    groups = list(dict.fromkeys((row.group, row.learned) for row in rows))
    for number, (group, learned) in enumerate(groups):
        own = [row for row in rows if (row.group, row.learned) == (group, learned)]
        own.sort(key=lambda row: row.cost)
        cost = [row.cost for row in own]
        style = "*" if learned else "o-"
        size = 13 if learned else 5
        colour = "black" if learned else COLOURS[number % len(COLOURS)]
        label = f"{group}, learned" if learned else group
        axes.plot(
            cost, [_shown(row.error) for row in own], style, ms=size, color=colour, label=label
        )
        axes.plot(
            cost, [_shown(row.error_p90) for row in own], style.replace("-", "--"),
            ms=size, color=colour, mfc="none", alpha=0.6,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="evaluations (median)", ylabel=what)
    axes.set_title("median (filled) and 90th percentile (hollow)", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _shown(error: float | None) -> float:
    return 1.0 if error is None else max(error, SMALLEST_ERROR)


def draw_trajectory(watched: Watched, actions: Sequence[float], path: Path) -> None:
    """The test system with the closest encounter among those that kept going, and its steps."""
    assert watched.choices is not None
    closest = np.stack(watched.closest)
    lengths = (watched.choices >= 0).sum(axis=0)
    whole = np.flatnonzero(lengths == lengths.max())
    number = whole[np.argsort(np.median(closest[:, whole], axis=0))[0]]
    places = np.stack(watched.places)[: lengths[number], :, :, number]
    mu = np.array(actions)[watched.choices[: lengths[number], number]]
    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    plane, along = figure.subplots(1, 2)
    for body, marker in enumerate("os^"):
        shown = plane.scatter(
            places[:, 0, body], places[:, 1, body], c=np.log10(mu), s=10, marker=marker,
            cmap="viridis",
        )  # fmt: skip
    plane.set(xlabel="x (au)", ylabel="y (au)", aspect="equal", title=f"test system {number}")
    figure.colorbar(shown, ax=plane, label="log10 of the chosen mu")
    years = 0.1 * np.arange(len(mu))
    along.step(years, mu, where="post", color="tab:blue", label="chosen mu")
    along.set(xlabel="time (yr)", ylabel="chosen mu", yscale="log")
    distance = along.twinx()
    distance.plot(years, closest[: lengths[number], number], color="tab:red", alpha=0.6)
    distance.set(ylabel="closest distance (au, red)", yscale="log")
    figure.savefig(path, dpi=110)


def draw_actions(watched: Watched, actions: Sequence[float], path: Path) -> None:
    """Share of each action against the closest distance before the decision."""
    assert watched.choices is not None
    taken = watched.choices >= 0
    distance, choice = np.stack(watched.closest)[taken], watched.choices[taken]
    edges = np.quantile(distance, np.linspace(0.0, 1.0, 11))
    table = np.zeros((len(actions), 10))
    for column in range(10):
        inside = (distance >= edges[column]) & (distance <= edges[column + 1])
        counts = np.bincount(choice[inside], minlength=len(actions))
        table[:, column] = counts / max(1, counts.sum())
    figure, axes = _figure()
    image = axes.imshow(table, origin="lower", aspect="auto", cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_yticks(range(len(actions)), [f"{value:.2g}" for value in actions])
    labels = [f"{edges[n]:.2g}-{edges[n + 1]:.2g}" for n in range(10)]
    axes.set_xticks(range(10), labels, rotation=45, fontsize=7)
    axes.set(xlabel="closest distance (au), tenths of all decisions", ylabel="mu")
    figure.colorbar(image, ax=axes, label="share of decisions")
    figure.savefig(path, dpi=110)


def draw_curves(curves: Sequence[Sequence[tuple[int, float, float]]], path: Path) -> None:
    """Mean return in training (thin) and on the validation episodes (thick) of each seed."""
    figure, axes = _figure()
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        decisions = [point[0] for point in curve]
        axes.plot(decisions, [point[2] for point in curve], "o-", color=colour, ms=4,
                  label=f"seed {number}, validation")  # fmt: skip
        axes.plot(decisions, [point[1] for point in curve], ":", color=colour, alpha=0.7)
    highest = [point[2] for curve in curves for point in curve]
    if highest:
        axes.set_ylim(bottom=max(min(highest), max(highest) - 3.0) - 0.2)
    axes.set(xlabel="decisions", ylabel="mean return (dotted: in training)")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
