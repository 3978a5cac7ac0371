"""What is wrong with the jobs of a group, told once at the line where they are written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from slimctl.orchestrator.expansion import Expansion
from slimctl.orchestrator.groups import UNFILLED, Origin
from slimctl.orchestrator.problems import Mistake, Path

MAX_TOLD = 3
"""Different mistakes at one place that are told each; the rest is counted."""


@dataclass
class _Told:
    """One mistake and the iterations that make it."""

    mistake: Mistake
    group: str
    iterations: dict[str, None] = field(default_factory=dict)


def told_once(mistakes: Iterable[Mistake], made: Expansion) -> list[Mistake]:
    """Mistakes at the paths that the user wrote.

    Args:
        mistakes: at the paths of single jobs.
        made: where those jobs are from.
    """
    found: dict[Mistake, _Told] = {}
    for mistake in mistakes:
        origin = made.origins.get(str(mistake.path[1])) if len(mistake.path) > 1 else None
        short = _short(mistake, origin)
        told = found.setdefault(short, _Told(short, origin.group if origin else ""))
        told.iterations |= {origin.iteration: None} if origin else {}
    places: dict[Path, list[_Told]] = {}
    for told in found.values():
        places.setdefault(told.mistake.path, []).append(told)
    return [mistake for there in places.values() for mistake in _at_place(there, made)]


def _short(mistake: Mistake, origin: Origin | None) -> Mistake:
    """The mistake as it is for every iteration, at the path of the template."""
    if origin is None:
        return mistake
    path = ("jobs", origin.group, "jobs", origin.member, *mistake.path[2:])
    mine, named = f"{origin.group}.{origin.iteration}.", f"{origin.group}."
    what, fix = (
        text.replace(f"jobs.{mine}", f"jobs.{named}jobs.").replace(mine, named)
        for text in (mistake.what, mistake.fix)
    )
    return replace(mistake, path=path, what=what, fix=fix)


def _at_place(there: list[_Told], made: Expansion) -> Iterator[Mistake]:
    if not there[0].group:
        yield from (told.mistake for told in there)
        return
    for told in there[:MAX_TOLD]:
        yield _with_iterations(told, made)
    rest = {name: None for told in there[MAX_TOLD:] for name in told.iterations}
    if rest:
        last = there[0].mistake
        what = f"{len(rest)} more iterations of '{there[0].group}' are wrong here"
        yield Mistake(last.path, what, "mend those above first", last.side)


def _with_iterations(told: _Told, made: Expansion) -> Mistake:
    """The mistake with the iterations that make it, unless all do."""
    mistake, names = told.mistake, list(told.iterations)
    if UNFILLED in names or len(names) == len(made.iterations[told.group]):
        return mistake
    first = ", ".join(f"{key}={label}" for key, label in _labels(names[0], told.group, made))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return replace(mistake, what=f"{mistake.what} (with {first}{more})")


def _labels(iteration: str, group: str, made: Expansion) -> Iterable[tuple[str, str]]:
    return next(one.labels for one in made.iterations[group] if one.name == iteration).items()
