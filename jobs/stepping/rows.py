"""From finished episodes to a row of the report."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.artifacts import ADAPTIVE, StepRow
from slimctl.models.stepping.environment import Floats

BOOTSTRAP = 2000
SEED = 0


def step_row(
    name: str,
    group: str,
    cost: Floats,
    error: Floats,
    bad_error: float,
    returns: Floats | None = None,
    learned: bool = False,
) -> StepRow:
    """A row of the report.

    Args:
        name: of the way to choose steps.
        group: what it belongs to.
        cost: evaluations of each episode.
        error: of each episode.
        bad_error: error that counts as bad.
        returns: of each episode; None where there are none.
        learned: whether a policy chose.
    """
    low, high = (None, None) if returns is None else bootstrap_interval(returns)
    return StepRow(
        name=name,
        group=group,
        learned=learned,
        cost=float(np.median(cost)),
        mean_cost=float(cost.mean()),
        error=_finite(np.median(error)),
        error_p90=_finite(np.quantile(error, 0.9, method="lower")),
        bad_share=float((error > bad_error).mean()),
        mean_return=None if returns is None else float(returns.mean()),
        return_low=low,
        return_high=high,
    )


def best_fixed(rows: Sequence[StepRow]) -> int:
    """Number of the row of fixed steps with the highest mean return."""
    fixed = [n for n, row in enumerate(rows) if not row.learned and row.group not in ADAPTIVE]
    return max(fixed, key=lambda n: _mean_return(rows[n]))


def _mean_return(row: StepRow) -> float:
    assert row.mean_return is not None
    return row.mean_return


def advantage(rows: Sequence[StepRow], returns: Sequence[Floats]) -> tuple[float, float, float]:
    """Mean return of the policies less that of the best fixed steps, with its 95 % interval.

    Both were measured on the same episodes, whose differences vary much less than they do.

    Args:
        rows: policies and fixed steps.
        returns: of each row, by episode.
    """
    learned = [one for row, one in zip(rows, returns, strict=True) if row.learned]
    gain = np.mean(learned, axis=0) - returns[best_fixed(rows)]
    return (float(gain.mean()), *bootstrap_interval(gain))


def bootstrap_interval(values: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, from 2000 draws of seed 0."""
    generator = np.random.default_rng(SEED)
    drawn: NDArray[np.int64] = generator.integers(0, len(values), (BOOTSTRAP, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _finite(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
