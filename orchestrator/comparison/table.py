"""A comparison as a table of texts, for a terminal, Markdown, CSV or LaTeX; and as JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from slimctl.orchestrator.comparison.pool import MEASURED, Comparison, Number, Row
from slimctl.orchestrator.comparison.protocol import protocol_text
from slimctl.orchestrator.results import latency_notes, latency_text, short_count

HEAD = (
    "name",
    "solver",
    "parameters",
    "MACs",
    "NFE",
    "FID",
    "KID",
    "precision",
    "recall",
    "latency",
)
FRONT = "*"
TIE = "="
ABSENT = "-"
ABOVE = "above the first"
UNSEEN = "not looked at: evaluations and latency, so a flow of ten steps hides its own single step"
_TEX = {
    "\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def table(comparison: Comparison, *, protocol: bool = False) -> Table:
    """Head and rows.

    Args:
        comparison: what to show.
        protocol: whether each row carries the protocol of its FID.
    """
    names = short_names(comparison.differing)
    devices = sorted({device for row in comparison.rows for device in row.hours})
    seeds = any(len(row.results) > 1 for row in comparison.rows)
    paired = _is_paired(comparison)
    head = ["", HEAD[0], *names.values(), *HEAD[1:], *(["seeds"] if seeds else [])]
    if paired:
        head.insert(head.index("FID") + 1, ABOVE)
    head += [f"{device}-hours" for device in devices] + (["FID protocol"] if protocol else [])
    rows = []
    for row in comparison.rows:
        cells = [FRONT if row.front else "", row.name]
        cells += [_setting(row.settings.get(name, ...)) for name in names]
        measured = _measured(row)
        if paired:
            measured.insert(HEAD.index("FID"), _above(row))
        cells += measured
        cells += [str(len(row.results))] if seeds else []
        cells += [f"{row.hours.get(device, 0.0):.3g}" for device in devices]
        cells += [protocol_text(comparison.protocol)] if protocol else []
        rows.append(tuple(cells))
    for missing in comparison.missing:
        at = head.index("FID")
        empty = [""] * len(head)
        empty[1], empty[at] = missing.job, missing.state
        rows.append(tuple(empty))
    return tuple(head), rows


def _is_paired(comparison: Comparison) -> bool:
    return any(row.above_first is not None for row in comparison.rows)


def _above(row: Row) -> str:
    """How far the FID is above the first row's, with its interval, and the mark of a tie."""
    above = row.above_first
    if above is None:
        return ""
    digits = 2 if row.numbers["fid"].mean >= 1 else 3
    low, high = (f"{end:+.{digits}f}" for end in (above.low, above.high))
    return f"{above.mean:+.{digits}f} [{low}, {high}]{' ' + TIE if row.tied else ''}"


def _measured(row: Row) -> list[str]:
    numbers = row.numbers
    report = row.results[0].report
    nfe = numbers["nfe"].mean
    return [
        report.solver,
        f"{numbers['parameters'].mean:,.0f}",
        short_count(numbers["macs"].mean),
        f"{nfe:g}" if nfe < 100 else f"{nfe:.0f}",
        _number(numbers["fid"], 2 if numbers["fid"].mean >= 1 else 3),
        _number(numbers["kid"], 3),
        _number(numbers["precision"], 3),
        _number(numbers["recall"], 3),
        latency_text(
            numbers["latency_ms"].mean,
            quiet=all(one.report.latency_quiet is not False for one in row.results),
        ),
    ]


def _number(number: Number, digits: int) -> str:
    half = "" if number.half is None else f" ± {number.half:.{digits}f}"
    return f"{number.mean:.{digits}f}{half}"


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
    lines = [
        f"{FRONT} no other row has a lower FID with no more parameters ({UNSEEN})",
        f"FID protocol: {protocol_text(comparison.protocol)}",
    ]
    if any(len(row.results) > 1 for row in comparison.rows):
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
    lines += latency_notes(one.report for row in comparison.rows for one in row.results)
    for device, hours in comparison.spent.items():
        saved = comparison.saved[device]
        lines.append(
            f"{hours:.3g} {device}-hours for all models; {saved:.3g} saved: what they share was "
            "made once"
        )
    lines += [
        f"{one.run}/{one.job} is {one.state}: {one.why}" for one in comparison.missing if one.why
    ]
    return lines


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown has it."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_in_markdown(c) for c in line)} |\n" for line in lines)


def _in_markdown(cell: str) -> str:
    return cell.replace("|", "\\|").replace("*", "\\*")


def as_csv(comparison: Comparison) -> str:
    """A comparison as comma-separated values, numbers in full; `_half` is half the interval."""
    devices = sorted({device for row in comparison.rows for device in row.hours})
    paired = _is_paired(comparison)
    pooled = [name for name in MEASURED if any(row.numbers[name].half for row in comparison.rows)]
    measured = [
        one for name in MEASURED for one in ([name, f"{name}_half"][: 1 + (name in pooled)])
    ]
    above = ["fid_above_first", "fid_above_first_low", "fid_above_first_high"] if paired else []
    head = ["front", "name", "state", *comparison.differing, "solver", *measured, *above, "seeds"]
    head += [*(f"{device}_hours" for device in devices), "fid_protocol"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in comparison.rows:
        cells: list[Any] = [int(row.front), row.name, "done"]
        cells += [_setting(row.settings.get(name, ...)) for name in comparison.differing]
        cells.append(row.results[0].report.solver)
        for name in MEASURED:
            number = row.numbers[name]
            cells += [number.mean, number.half][: 1 + (name in pooled)]
        if paired:
            found = row.above_first
            cells += ["", "", ""] if found is None else [found.mean, found.low, found.high]
        cells.append(len(row.results))
        cells += [row.hours.get(device, 0.0) for device in devices]
        writer.writerow([*cells, protocol_text(comparison.protocol)])
    for one in comparison.missing:
        writer.writerow([0, one.job, one.state, *[""] * (len(head) - 3)])
    return out.getvalue()


def as_latex(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table as a `tabular` with the rules of booktabs."""
    body = [" & ".join(_in_tex(cell) for cell in line) + r" \\" for line in rows]
    top = " & ".join(_in_tex(cell) for cell in head) + r" \\"
    begin = rf"\begin{{tabular}}{{{'l' * len(head)}}}"
    lines = [begin, r"\toprule", top, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _in_tex(cell: str) -> str:
    return "".join(_TEX.get(char, char) for char in cell)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All of a comparison as plain data."""
    return {
        "protocol": dict(comparison.protocol),
        "differing": list(comparison.differing),
        "spent_hours": dict(comparison.spent),
        "saved_hours": dict(comparison.saved),
        "rows": [_row_json(row, comparison) for row in comparison.rows],
        "missing": [vars(one) for one in comparison.missing],
    }


def _row_json(row: Row, comparison: Comparison) -> dict[str, Any]:
    numbers: Mapping[str, Number] = row.numbers
    return {
        "name": row.name,
        "front": row.front,
        "settings": {name: row.settings.get(name) for name in comparison.differing},
        **{name: vars(numbers[name]) for name in MEASURED},
        "fid_above_first": None if row.above_first is None else vars(row.above_first),
        "tied": row.tied,
        "hours": dict(row.hours),
        "results": [
            {"run": one.run, "job": one.job, "artifact": one.report.id, "model": one.report.model}
            for one in row.results
        ],
    }
