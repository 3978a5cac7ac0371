"""From finished episodes to a row of the report."""

import numpy as np
from numpy.typing import NDArray

from jobs.base.artifacts import StepRow
from models.stepping.environment import Floats

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


def bootstrap_interval(values: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of a mean, from 2000 draws of seed 0."""
    generator = np.random.default_rng(SEED)
    drawn: NDArray[np.int64] = generator.integers(0, len(values), (BOOTSTRAP, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def _finite(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
