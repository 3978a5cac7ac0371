"""Jobs of large groups as one row each: a table of hundreds of iterations tells nobody anything."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slimctl.orchestrator.groups import origin_of

MANY = 4
"""Iterations up to which each has rows of its own."""


@dataclass(frozen=True)
class Row:
    """One or more jobs that are shown together.

    Args:
        name: of the job, or `students.quality x 6`.
        jobs: their names.
    """

    name: str
    jobs: tuple[str, ...]

    @property
    def together(self) -> bool:
        """Whether it stands for the same job of several iterations."""
        return self.name not in self.jobs


def collapsed(names: Iterable[str], most: int = MANY) -> list[Row]:
    """The jobs in their order; those of a group with many iterations together.

    Args:
        names: of jobs.
        most: iterations up to which each has a row of its own.
    """
    rows: dict[str, list[str]] = {}
    iterations: dict[str, set[str]] = {}
    for name in names:
        origin = origin_of(name)
        rows.setdefault(origin.short if origin else name, []).append(name)
        if origin:
            iterations.setdefault(origin.short, set()).add(origin.iteration)
    few = {short for short, found in iterations.items() if len(found) <= most}
    return [row for short, jobs in rows.items() for row in _rows(short, jobs, single=short in few)]


def _rows(short: str, jobs: Sequence[str], *, single: bool) -> list[Row]:
    if single or jobs == [short]:
        return [Row(name, (name,)) for name in jobs]
    return [Row(f"{short} x {len(jobs)}", tuple(jobs))]


def counted(words: Iterable[str]) -> str:
    """`4 done, 2 running`; a word that all share stands alone."""
    counts = Counter(words)
    if len(counts) == 1:
        ((word, _),) = counts.items()
        return word
    return ", ".join(f"{count} {word}" for word, count in counts.items())
