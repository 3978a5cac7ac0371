"""Which trial of a sweep wins: the lowest objective within the limits, or the front of several."""

from collections.abc import Mapping, Sequence

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.search.spec import Limit


def within(metrics: Mapping[str, float], limits: Mapping[str, Limit]) -> bool:
    """Whether every limited number is known and allowed."""
    return all(
        name in metrics and limit.excess(metrics[name]) == 0 for name, limit in limits.items()
    )


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
    return [
        number
        for number, trial in enumerate(trials)
        if trial.state == "done"
        and all(name in trial.metrics for name in objectives)
        and within(trial.metrics, limits)
    ]
