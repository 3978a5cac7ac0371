"""What the trials of a search came to: their notes in the store, and which of them wins.

A note is written when values are proposed and again when their trial has ended, so that a search is
taken up again by whoever runs it next, whatever died: what has ended costs nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slimctl.jobs.base.artifacts import Handle, Trial
from slimctl.jobs.search.spec import Limit
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.score_curve import noted_scores
from slimctl.models.spec import Spec

FOLDER = "trials"


class Note(Spec):
    """A trial as far as it came."""

    number: int
    """In the order of the proposals, from 0."""
    values: dict[str, Any]
    after: int
    """Trials that had ended when it was proposed."""
    trial: Trial | None = None
    """How it ended; None = it has not."""
    order: int = 0
    """Trials that had ended before it did."""
    by: str = ""
    """The attempt at the search that it is of."""
    excess: float = 0.0
    """How far its size is outside the limits, relative to them."""


class Notes:
    """The notes of one search.

    Args:
        work: folder of the search's unfinished work.
    """

    def __init__(self, work: Blobs) -> None:
        self._blobs = work.below(FOLDER)

    def write(self, note: Note) -> None:
        """Writes a note in place of an earlier one of the same trial."""
        self._blobs.write(f"{note.number:06d}.json", note.model_dump_json().encode())

    def read(self) -> list[Note]:
        """All notes in the order of the proposals."""
        texts = [self._blobs.read(name) for name in self._blobs.names("") if _is_note(name)]
        return sorted(map(Note.model_validate_json, texts), key=lambda note: note.number)


def _is_note(name: str) -> bool:
    """Whether a file is such a note: versions before 0.2 named theirs by the values."""
    return len(name) == len("000000.json") and name.removesuffix(".json").isdecimal()


def numbers(job: str, handle: Handle) -> dict[str, float]:
    """The measured numbers of a result as `JOB.FIELD`."""
    return {
        f"{job}.{name}": float(value)
        for name, value in handle
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def scores_of(store: Store, artifact: str) -> Mapping[int, float]:
    """Optimizer step -> score of a training that is finished or under way, in rising order."""
    manifest = store.manifest(artifact)
    if manifest is None:
        return noted_scores(store.work(artifact))
    return {int(step): value for step, value in manifest.engine.get("scores", {}).items()}


def best(trials: Sequence[Trial], objective: str, limits: Mapping[str, Limit]) -> int | None:
    """Number of the trial with the lowest objective within the limits; None if there is none."""
    allowed = _allowed(trials, (objective,), limits)
    return min(allowed, key=lambda number: trials[number].metrics[objective], default=None)


def front(
    trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, Limit]
) -> tuple[int, ...]:
    """Numbers of the trials within the limits that no other such trial beats.

    A trial beats another if it is nowhere higher and somewhere lower.
    """
    points = {
        number: tuple(trials[number].metrics[name] for name in objectives)
        for number in _allowed(trials, objectives, limits)
    }
    return tuple(
        number
        for number, point in points.items()
        if not any(_beats(other, point) for other in points.values())
    )


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _allowed(
    trials: Sequence[Trial], objectives: Sequence[str], limits: Mapping[str, Limit]
) -> list[int]:
    """Numbers of the trials whose objectives are known and whose limited numbers are allowed."""
    return [
        number
        for number, trial in enumerate(trials)
        if trial.state == "done"
        and all(name in trial.metrics for name in (*objectives, *limits))
        and all(limit.excess(trial.metrics[name]) == 0 for name, limit in limits.items())
    ]
