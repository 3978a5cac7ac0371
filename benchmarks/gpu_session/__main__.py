"""The command line of a session."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.gpu_session import __doc__ as about
from benchmarks.gpu_session.around import around
from benchmarks.gpu_session.correctness import correctness
from benchmarks.gpu_session.facts import facts
from benchmarks.gpu_session.report import markdown, read_figures, summary
from benchmarks.gpu_session.sampling import sampling
from benchmarks.gpu_session.session import Session, ends_in_time
from benchmarks.gpu_session.sizes import DRY, REAL
from benchmarks.gpu_session.training_step import training_step
from benchmarks.measure import this_machine

Phase = tuple[str, float, Callable[[Session], None]]
PARTS: dict[int, tuple[Phase, ...]] = {
    1: (
        ("facts", 15, facts),
        ("correctness", 90, correctness),
        ("training step", 280, training_step),
    ),
    2: (
        ("facts", 15, facts),
        ("sampling", 200, sampling),
        ("around", 170, around),
    ),
}
"""Phase -> its budget, s; those of a part are under seven minutes together."""


def options() -> argparse.ArgumentParser:
    """What can be asked for."""
    found = argparse.ArgumentParser(
        "python -m benchmarks.gpu_session",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--part", type=int, choices=sorted(PARTS), help="one call each; 1 first")
    found.add_argument("--out", type=Path, help="folder for part-N.jsonl, part-N.md and the JSON")
    found.add_argument("--official", type=Path, help="a checkout of yuanzhi-zhu/SlimFlow")
    found.add_argument("--dry-run", action="store_true", help="small sizes, on whatever is here")
    found.add_argument("--report", type=Path, help="folder of --out: the table of both parts")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a part, or joins the figures of both."""
    parser = options()
    asked = parser.parse_args(arguments)
    if (asked.part is None) == (asked.report is None):
        parser.error("give --part 1, --part 2 or --report FOLDER")
    if asked.report is not None:
        figures = read_figures(asked.report)
        print(markdown(figures))
        print(json.dumps(summary(figures)))
        return
    machine = this_machine(1 if asked.dry_run else 4)
    if machine.device.type != "cuda" and not asked.dry_run:
        parser.error("there is no GPU here; --dry-run tries the program on a CPU")
    with ExitStack() as stack:
        outputs = [sys.stdout]
        if asked.out is not None:
            asked.out.mkdir(parents=True, exist_ok=True)
            lines = asked.out / f"part-{asked.part}.jsonl"
            outputs.append(stack.enter_context(lines.open("w")))
        if not asked.dry_run:
            stack.enter_context(ends_in_time())
        session = Session(machine, DRY if asked.dry_run else REAL, asked.official, tuple(outputs))
        for name, budget_s, work in PARTS[asked.part]:
            session.run(name, budget_s, work)
    table, found = markdown(session.figures), summary(session.figures)
    print(table)
    print(json.dumps(found), flush=True)
    if asked.out is not None:
        (asked.out / f"part-{asked.part}.md").write_text(table + "\n")
        (asked.out / f"part-{asked.part}.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
