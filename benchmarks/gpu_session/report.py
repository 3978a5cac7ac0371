"""The end of a session: what it settles and all figures, as Markdown for benchmarks/README.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_session.session import Figure
from benchmarks.gpu_session.settles import settle

HIDDEN = ("phase", "figure", "at_s", "way", "case")
NO_GPU = "measured on a CPU: this settles nothing"


def read_figures(folder: Path) -> list[Figure]:
    """The figures of every part in a folder, in order.

    Raises:
        SystemExit: there is no such file.
    """
    files = sorted(folder.glob("part-*.jsonl"))
    if not files:
        raise SystemExit(
            f"{folder}: has no part-1.jsonl or part-2.jsonl\n  fix: name the folder of --out"
        )
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def summary(figures: Sequence[Figure]) -> dict[str, Any]:
    """What was measured where and when, and what it settles, for JSON."""
    machine = next((line for line in figures if line["figure"] == "machine"), {})
    on_gpu = machine.get("cuda") is not None and machine.get("memory_gib") is not None
    return {
        "card": machine.get("device"),
        "date": machine.get("date"),
        "torch": machine.get("versions", {}).get("torch"),
        "cuda": machine.get("cuda"),
        "figures": len(figures),
        "failed": [line["figure"] for line in figures if "failed" in line],
        "settles": [vars(one) for one in settle(figures)] if on_gpu else NO_GPU,
    }


def markdown(figures: Sequence[Figure]) -> str:
    """The tables."""
    head = summary(figures)
    lines = [
        f"{head['card']}, {head['date']}, torch {head['torch']}, CUDA {head['cuda']}:",
        "",
        *_settled(head["settles"]),
        "",
        "| phase | figure | values |",
        "|---|---|---|",
    ]
    shown = [line for line in figures if line["figure"] != "machine"]
    lines += [f"| {line['phase']} | {line['figure']} | {_values(line)} |" for line in shown]
    return "\n".join(lines)


def _settled(settles: str | Sequence[Mapping[str, Any]]) -> list[str]:
    if isinstance(settles, str):
        return [settles]
    rows = [
        f"| {one['what']} | {one['value'] or 'not settled'} | {one['because']} | {one['where']} |"
        for one in settles
    ]
    return ["| default | value | because | where |", "|---|---|---|---|", *rows]


def _values(line: Figure) -> str:
    shown = [f"{name} {_value(value)}" for name, value in line.items() if name not in HIDDEN]
    return ", ".join(shown)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return " ".join(f"{name} {_value(part)}" for name, part in value.items())
    return str(value)
