"""Results as people and programs read them: tables, the notes under them, JSON, CSV, a picture.

Which numbers there are, in which order and form, `slimctl.models.metrics` says.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimctl.jobs.base.artifacts import (
    ADAPTIVE,
    FITTED,
    FidProtocol,
    QualityReport,
    StepReport,
    StepRow,
)
from slimctl.jobs.base.errors import UserError
from slimctl.models.metrics import Metric, columns, metrics, short_count
from slimctl.orchestrator.results.names import name_points
from slimctl.orchestrator.results.pool import Comparison, Row, own_half, protocol_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP_COLUMNS = (
    "steps", "method", "mean cost", "median error", "p90 error", "bad", "return [95 %]",
)  # fmt: skip
NUMERIC = frozenset("<-0123456789")
FRONT = "*"
TIE = "="
ABSENT = "-"
LOUD = "~"
ABOVE = "above the first"
UNSEEN = "not looked at: evaluations and latency, so a flow of ten steps hides its own single step"
_TEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def shown(reports: Iterable[QualityReport]) -> list[Metric]:
    """The metrics that tables have and that some report has, in the order of their columns."""
    reports = list(reports)
    return [
        metric
        for metric in columns()
        if any(report.number(metric.name) is not None for report in reports)
    ]


# One run


def quality_table(reports: Mapping[str, QualityReport]) -> Table:
    """Head and rows of what a run measured: a row per report, a column per metric that it has."""
    known = shown(reports.values())
    head = ("model", "solver", *(metric.label for metric in known))
    return head, [
        (name, report.solver, *(_measured(metric, report) for metric in known))
        for name, report in reports.items()
    ]


def _measured(metric: Metric, report: QualityReport) -> str:
    """A number of one report, with its own interval, or with the whole that it is a part of."""
    value = report.number(metric.name)
    if value is None:
        return ABSENT
    text = metric.text(value)
    whole = report.number(metric.whole)
    if whole is not None and whole > value:
        text = f"{text} of {metric.text(whole)}"
    half = own_half(metric, report)
    return _marked(metric, text if half is None else f"{text} ± {metric.text(half)}", [report])


def _marked(metric: Metric, text: str, reports: Iterable[QualityReport]) -> str:
    """The text, marked where something else computed during the measurement."""
    flags = [getattr(report, metric.undisturbed, None) for report in reports]
    return f"{LOUD}{text}" if False in flags else text


def judge_notes(reports: Mapping[str, QualityReport]) -> list[str]:
    """Whether what chose weights also measures them here; nothing where nothing was chosen."""
    same = [name for name, report in reports.items() if report.chose_itself]
    apart = [name for name, one in reports.items() if one.chosen_by and not one.chose_itself]
    notes = []
    if same:
        notes.append(
            f"{', '.join(same)}: the features of this FID and KID also chose the weights, which "
            "they flatter; choose by others (judge_features)"
        )
    if apart:
        notes.append(f"{', '.join(apart)}: other features than these chose the weights")
    return notes


def loud_notes(reports: Iterable[QualityReport]) -> list[str]:
    """What the mark before a number means, where there is one."""
    reports = list(reports)
    return [
        f"{LOUD} something else computed while this {metric.label} was measured"
        for metric in columns()
        if _marked(metric, "", reports)
    ]


def floor_text(report: QualityReport) -> str:
    """What real images themselves have as FID, and how much that varies."""
    spread = ""
    if report.fid_real_sd is not None:
        draws = f"mean of {report.fid_real_draws} draws"
        spread = f" ({draws}, standard deviation {report.fid_real_sd:.2f})"
    drawn = f"FID of {report.samples} real images drawn with replacement"
    return f"{drawn}: {report.fid_real:.2f}{spread}"


def part_lines(reports: Mapping[str, QualityReport]) -> list[str]:
    """For each report with parts a line with the FID of every part and what routing costs."""
    lines = []
    for name, report in reports.items():
        if report.parts:
            parts = (
                f"{','.join(map(str, part.labels))}: {part.fid:.2f} ({part.fid_real:.2f})"
                for part in report.parts
            )
            routed = "" if report.routing_us is None else f"; routing {report.routing_us:.1f} us"
            lines.append(f"{name}, FID by labels (real images): {'; '.join(parts)}{routed}")
    return lines


def protocol_notes(reports: Mapping[str, QualityReport]) -> list[str]:
    """What the table's FIDs are, where that is not plain: of several draws, or not comparable."""
    notes = [
        f"{name}: lowest FID of {len(report.fids)} draws; mean {report.fid_mean:.2f}"
        for name, report in reports.items()
        if len(report.fids) > 1
    ]
    groups: dict[FidProtocol | None, list[str]] = {}
    for name, report in reports.items():
        groups.setdefault(report.protocol, []).append(name)
    if len(groups) > 1:
        kinds = "; ".join(", ".join(names) for names in groups.values())
        notes.append(
            f"FIDs compare only within a group (unlike features, reference or samples): {kinds}"
        )
    return notes


# Step policies


def step_rows(rows: Sequence[StepRow]) -> list[tuple[str, ...]]:
    """Rows of the table under `STEP_COLUMNS`."""
    return [
        (
            row.name,
            row.group,
            short_count(row.mean_cost) if row.mean_cost >= 1000 else f"{row.mean_cost:.1f}",
            "lost" if row.error is None else f"{row.error:.1e}",
            "lost" if row.error_p90 is None else f"{row.error_p90:.1e}",
            f"{100 * row.bad_share:.1f} %",
            _return_with_interval(row),
        )
        for row in rows
    ]


def _return_with_interval(row: StepRow) -> str:
    if row.mean_return is None:
        return ""
    if row.return_low is None or row.return_high is None:
        return f"{row.mean_return:.3f}"
    return f"{row.mean_return:.3f} [{row.return_low:.3f}, {row.return_high:.3f}]"


ENOUGH = 0.9
"""Share of a flow's samples within the tolerance at which ways to solve it are compared."""


def step_verdict(report: StepReport) -> list[str]:
    """What the table comes to: the gain over fixed steps, and a flow's cheapest good ways."""
    lines = []
    if report.advantage is not None:
        lines.append(
            f"policies less the best fixed steps, on the same episodes: {report.advantage:+.3f} "
            f"[{report.advantage_low:.3f}, {report.advantage_high:.3f}]"
        )
    return [*lines, _cheapest(report)] if report.problem_kind == "flow" else lines


def _cheapest(report: StepReport) -> str:
    good = [row for row in report.rows if 1.0 - row.bad_share >= ENOUGH]
    adaptive = [row for row in good if row.group in ADAPTIVE]
    ways = [[row for row in good if row.learned], [row for row in good if row.group == FITTED]]
    best = [min(rows, key=lambda row: row.mean_cost) for rows in (*ways, adaptive) if rows]
    start = f"cheapest with {100 * ENOUGH:.0f} % of the samples within {report.bad_error:g}: "
    if not adaptive:
        return start + "no tolerance of rk45 and rk23 reaches it"
    floor = best[-1].mean_cost
    return start + "; ".join(
        f"{row.name} ({row.mean_cost:.1f} evaluations, {row.mean_cost / floor:.2f}x)"
        for row in best
    )


# A comparison


def table(comparison: Comparison, *, protocol: bool = False) -> Table:
    """Head and rows; with `protocol`, each row carries that of its FID."""
    rows = comparison.rows
    made: list[tuple[str, list[str]]] = [
        ("", [FRONT * row.front + TIE * row.tied_front for row in rows]),
        ("name", [row.name for row in rows]),
    ]
    for name, short in short_names(comparison.differing).items():
        made.append((short, [_setting(row.settings.get(name, ...)) for row in rows]))
    made.append(("solver", [row.results[0].report.solver for row in rows]))
    for metric in columns():
        if metric in comparison.metrics:
            made.append((metric.label, [_pooled(metric, row) for row in rows]))
        if metric.name == "fid" and _is_paired(comparison):
            made.append((ABOVE, [_above(row) for row in rows]))
    unseen = [axis for axis in comparison.axes if axis.column is None]
    made += [(axis.label, [_pooled(axis, row) for row in rows]) for axis in unseen]
    if _has_seeds(comparison):
        made.append(("seeds", [str(len(row.results)) for row in rows]))
    for device in _devices(comparison):
        made.append((f"{device}-hours", [f"{row.hours.get(device, 0.0):.3g}" for row in rows]))
    if price := comparison.price:
        made.append(("cost", [price.text(price.of(row.hours)) for row in rows]))
    if protocol:
        made.append(("FID protocol", [protocol_text(comparison.protocol)] * len(rows)))
    head = tuple(name for name, _ in made)
    filled = list(zip(*(cells for _, cells in made), strict=True))
    for one in comparison.missing:
        cells = {"name": one.job, "FID": one.state}
        filled.append(tuple(cells.get(name, "") for name in head))
    return head, filled


def _is_paired(comparison: Comparison) -> bool:
    return any(row.above_first is not None for row in comparison.rows)


def _has_seeds(comparison: Comparison) -> bool:
    return any(len(row.results) > 1 for row in comparison.rows)


def _devices(comparison: Comparison) -> list[str]:
    return sorted({device for row in comparison.rows for device in row.hours})


def _decimals(metric: Metric, mean: float) -> int | None:
    """Digits of a mean: at least three behind the point where it is below 1."""
    fixed = metric.decimals
    return fixed if fixed is None or metric.cost or mean >= 1 else max(3, fixed)


def _above(row: Row) -> str:
    """How far the FID is above the first row's, with its interval, and the mark of a tie."""
    above = row.above_first
    if above is None:
        return ""
    digits = _decimals(metrics()["fid"], row.numbers["fid"].mean)
    low, high = (f"{end:+.{digits}f}" for end in (above.low, above.high))
    return f"{above.mean:+.{digits}f} [{low}, {high}]{' ' + TIE if row.tied else ''}"


def _pooled(metric: Metric, row: Row) -> str:
    number = row.numbers.get(metric.name)
    if number is None:
        return ABSENT
    digits = _decimals(metric, number.mean)
    text = metric.text(number.mean, digits)
    if number.half is not None and not metric.cost:
        text = f"{text} ± {metric.text(number.half, digits)}"
    return _marked(metric, text, (one.report for one in row.results))


def _setting(value: Any) -> str:
    if value is ...:
        return ABSENT
    return value if isinstance(value, str) else json.dumps(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name with the shortest end of it that no other name has."""
    short: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        ends = [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
        others = [other for other in names if other != name]
        short[name] = next(
            (end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)),
            name,
        )
    return short


def notes(comparison: Comparison) -> list[str]:
    """What belongs under the table."""
    lines = [front_text(comparison), f"FID protocol: {protocol_text(comparison.protocol)}"]
    if _has_seeds(comparison):
        lines.append("± half the 95 % interval of the mean over seeds; KID of one seed: its own")
    if _is_paired(comparison):
        lines.append(
            f"{ABOVE}: FID less the first row's at the same seeds, mean [95 % interval]; {TIE} a "
            "tie, which these seeds do not decide (no correction for the number of comparisons)"
        )
    elif len(comparison.rows) > 1:
        lines.append(
            "no two rows have two seeds in common: which FID is lower may be luck of the seed"
        )
    lines += judge_notes({row.name: row.results[0].report for row in comparison.rows})
    lines += loud_notes(one.report for row in comparison.rows for one in row.results)
    for device, hours in comparison.spent.items():
        saved = comparison.saved[device]
        lines.append(
            f"{hours:.3g} {device}-hours for all models; {saved:.3g} saved: what they share was "
            "made once"
        )
    if price := comparison.price:
        spent, saved = price.of(comparison.spent), price.of(comparison.saved)
        lines.append(f"{price.text(spent)} for all models; {price.text(saved)} saved")
    return lines + [
        f"{one.run}/{one.job} is {one.state}: {one.why}" for one in comparison.missing if one.why
    ]


def front_text(comparison: Comparison) -> str:
    """What the marks of the front mean."""
    first, *others = comparison.axes
    more = {"lower": "more", "higher": "less"}
    rest = " and ".join(f"no {more[axis.better or 'lower']} {axis.label}" for axis in others)
    seen = {axis.name for axis in comparison.axes}
    unseen = "" if seen & {"nfe", "latency_ms", "sample_macs"} else f" ({UNSEEN})"
    text = f"{FRONT} no other row has a {first.better} {first.label} with {rest}{unseen}"
    if any(row.tied_front for row in comparison.rows):
        text += (
            f"; {TIE} a tie within the 95 % interval, with a row that beats it or, after {FRONT}, "
            "with a cheaper one"
        )
    return text


def as_text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with columns aligned: numbers to the right, words to the left."""
    widths = [max(len(str(row[column])) for row in [head, *rows]) for column in range(len(head))]
    right = [
        bool(rows) and all(str(row[column])[:1] in NUMERIC for row in rows)
        for column in range(len(head))
    ]
    lines = [_line(head, widths, right), "  ".join("-" * width for width in widths)]
    return "\n".join([*lines, *(_line(row, widths, right) for row in rows)])


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = [
        str(cell).rjust(width) if to_right else str(cell).ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    ]
    return "  ".join(aligned).rstrip()


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown has it."""
    lines = [head, ["---"] * len(head), *rows]
    escaped = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def as_latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table as a `tabular` with the rules of booktabs."""
    top, *body = (
        " & ".join("".join(_TEX.get(char, char) for char in cell) for cell in line) + r" \\"
        for line in (head, *rows)
    )
    begin = rf"\begin{{tabular}}{{{'l' * len(head)}}}"
    lines = [begin, r"\toprule", top, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def as_csv(comparison: Comparison) -> str:
    """A comparison as comma-separated values, numbers in full; `_half` is half the interval."""
    numbers = [(name, row.numbers[name]) for row in comparison.rows for name in row.numbers]
    pooled = {name for name, number in numbers if number.half}
    made = [_csv_row(row, comparison, pooled) for row in comparison.rows]
    made += [{"front": 0, "name": one.job, "state": one.state} for one in comparison.missing]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(made[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    return out.getvalue()


def _csv_row(row: Row, comparison: Comparison, pooled: set[str]) -> dict[str, Any]:
    cells: dict[str, Any] = {"front": int(row.front), "front_tied": int(row.tied_front)}
    cells |= {"name": row.name, "state": "done"}
    for name in comparison.differing:
        cells[name] = _setting(row.settings.get(name, ...))
    cells["solver"] = row.results[0].report.solver
    for metric in comparison.metrics:
        number = row.numbers.get(metric.name)
        cells[metric.name] = getattr(number, "mean", None)
        if metric.name in pooled:
            cells[f"{metric.name}_half"] = getattr(number, "half", None)
    if _is_paired(comparison):
        for end, bound in (("", "mean"), ("_low", "low"), ("_high", "high")):
            cells[f"fid_above_first{end}"] = getattr(row.above_first, bound, None)
    cells["seeds"] = len(row.results)
    cells |= {f"{each}_hours": row.hours.get(each, 0.0) for each in _devices(comparison)}
    if price := comparison.price:
        cells |= {"cost": price.of(row.hours), "currency": price.currency}
    return {**cells, "fid_protocol": protocol_text(comparison.protocol)}


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison as plain data."""
    return {
        "protocol": dict(comparison.protocol),
        "differing": list(comparison.differing),
        "spent_hours": dict(comparison.spent),
        "saved_hours": dict(comparison.saved),
        "price": comparison.price and comparison.price.model_dump(),
        "rows": [_row_json(row, comparison) for row in comparison.rows],
        "missing": [vars(one) for one in comparison.missing],
    }


def _row_json(row: Row, comparison: Comparison) -> dict[str, Any]:
    return {
        "name": row.name,
        "front": row.front,
        "front_tied": row.tied_front,
        "settings": {name: row.settings.get(name) for name in comparison.differing},
        **{one.name: _plain(row.numbers.get(one.name)) for one in comparison.metrics},
        "fid_above_first": _plain(row.above_first),
        "tied": row.tied,
        "hours": dict(row.hours),
        "cost": comparison.price and comparison.price.of(row.hours),
        "results": [
            {"run": one.run, "job": one.job, "artifact": one.report.id, "model": one.report.model}
            for one in row.results
        ],
    }


def _plain(number: object) -> dict[str, Any] | None:
    return None if number is None else vars(number)


# The picture of a comparison

MOST_NAMES = 30
"""Rows up to which every point is named; beyond, only those of the front are."""
WIDE = 20
"""Largest value over the smallest from which on an axis is logarithmic."""


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
    """Draws the first axis of the front, FID, against the second, its cost, into empty axes."""
    upright, across = comparison.axes[:2]
    points = [
        (row.numbers[across.name].mean, row.numbers[upright.name].mean, row)
        for row in comparison.rows
        if {across.name, upright.name} <= set(row.numbers)
    ]
    for x, y, row in points:
        half, on_it = row.numbers[upright.name].half, row.front or row.tied_front
        inside = None if row.front else "none"
        colour = "C0" if on_it else "0.6"
        axes.errorbar(x, y, yerr=half, fmt="o", color=colour, capsize=3, mfc=inside)
    front = sorted((x, y) for x, y, row in points if row.front)
    axes.step(*zip(*front, strict=True), where="post", color="C0", linewidth=1, alpha=0.6)
    axes.margins(x=0.25)
    wide = is_wide([y for _, y, _ in points])
    axes.set(xlabel=across.title, ylabel=upright.title)
    axes.set(xscale="log" if across.cost else "linear", yscale="log" if wide else "linear")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    if not wide:
        axes.set_ylim(0, None)
    axes.set_title(f"FID: {protocol_text(comparison.protocol)}", fontsize=8)
    axes.grid(alpha=0.3)
    few = len(points) <= MOST_NAMES
    named = [(x, y, row.name) for x, y, row in points if row.front]
    rest = [(x, y, row.name) for x, y, row in points if not row.front]
    name_points([*named, *rest] if few else named, [] if few else rest, axes)


def is_wide(values: Sequence[float]) -> bool:
    """Whether numbers are better read on a logarithmic axis."""
    return min(values) > 0 and max(values) > WIDE * min(values)
