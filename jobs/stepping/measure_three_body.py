"""Measures step policies on the test systems, against fixed step parameters."""

from dataclasses import dataclass, field

import numpy as np

from slimctl.jobs.base.artifacts import StepPolicy, StepRow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.stepping.rows import step_row
from slimctl.jobs.storage.policies import open_policy
from slimctl.models.stepping.environment import (
    Choose,
    Episodes,
    Floats,
    Integers,
    always,
    holding,
    play,
)
from slimctl.models.stepping.spec import INTEGRATORS, IntegratorName, StepControl, ThreeBodyProblem
from slimctl.models.stepping.three_body_environment import TEST_SEEDS, ThreeBodyEnvironment

BAD_ERROR = 1e-4
DEFAULT_MU = 0.03
"""The value that simulations usually take (arXiv 2502.12809)."""
SMALLEST_TRANSFER_MU = 2e-3
"""Smaller values cost most and, in other integrators, say nothing more."""


@dataclass(frozen=True)
class Examination:
    """What policies and fixed values are tested on."""

    episodes: int
    """Test systems, seeds 0, 1, ..."""
    horizon: int
    """Intervals of 0.1 yr."""
    bad_error: float = BAD_ERROR
    """|dE/E| above which a system counts as bad."""


@dataclass
class Watched:
    """What a policy did on the test systems."""

    closest: list[Floats] = field(default_factory=list)
    """Distance of the two closest bodies before each interval, (N,)."""
    places: list[Floats] = field(default_factory=list)
    """x, y of each body before each interval, (2, 3, N)."""
    choices: Integers | None = None
    """Action number in each interval, (intervals, N)."""


@dataclass(frozen=True)
class ThreeBodyResults:
    """Everything that was measured."""

    rows: tuple[StepRow, ...]
    transfer: tuple[StepRow, ...]
    watched: Watched
    returns: tuple[Floats, ...]
    """Of each row, by test system."""


def measure_three_body(
    context: JobContext, policy: StepPolicy, problem: ThreeBodyProblem, test: Examination
) -> ThreeBodyResults:
    """Plays the test systems with every fixed value, the default and every policy.

    Args:
        context: of the job.
        policy: the policies.
        problem: that they were trained on.
        test: which systems, for how long.
    """
    table = _Table(context, test, _total(policy, problem))
    values = sorted({*problem.actions, DEFAULT_MU})
    chooser = {n: open_policy(context.store, policy, n) for n in range(len(policy.validation))}
    watched = Watched()
    table.fixed(problem, values)
    for number, choose in chooser.items():
        kept = watched if number == policy.chosen else None
        table.policy(problem, f"policy, seed {number}", choose, kept)
    own = len(table.rows)
    for integrator, control in _others(problem):
        other = problem.model_copy(update={"integrator": integrator, "control": control})
        table.fixed(other, [value for value in values if value >= SMALLEST_TRANSFER_MU])
        table.policy(other, "policy", chooser[policy.chosen], None)
    own_rows, others = tuple(table.rows[:own]), tuple(table.rows[own:])
    return ThreeBodyResults(own_rows, others, watched, tuple(table.returns[:own]))


def _others(problem: ThreeBodyProblem) -> list[tuple[IntegratorName, StepControl]]:
    """Integrators and step controls that a policy was not trained with."""
    controls: tuple[StepControl, ...] = ("time_scale", "fixed")
    every = [(name, control) for control in controls for name in INTEGRATORS]
    return [each for each in every if each != (problem.integrator, problem.control)]


def _total(policy: StepPolicy, problem: ThreeBodyProblem) -> int:
    large = sum(value >= SMALLEST_TRANSFER_MU for value in (*problem.actions, DEFAULT_MU))
    own = len(problem.actions) + 1 + len(policy.validation)
    return own + len(_others(problem)) * (large + 1)


class _Table:
    """Plays and measures, row by row."""

    def __init__(self, context: JobContext, test: Examination, total: int) -> None:
        self._context, self._test, self._total = context, test, total
        self.rows: list[StepRow] = []
        self.returns: list[Floats] = []

    def fixed(self, problem: ThreeBodyProblem, values: list[float]) -> None:
        """A row for each value of mu."""
        grid = problem.model_copy(update={"actions": tuple(values)})
        for number, value in enumerate(values):
            self._row(grid, f"mu {value:g}", always(number), None, learned=False)

    def policy(
        self, problem: ThreeBodyProblem, name: str, choose: Choose, watched: Watched | None
    ) -> None:
        """The row of a policy."""
        self._row(problem, name, choose, watched, learned=True)

    def _row(
        self, problem: ThreeBodyProblem, name: str, choose: Choose, watched: Watched | None,
        learned: bool,
    ) -> None:  # fmt: skip
        every = problem.model_copy(update={"hold": 1})  # so that every interval can be watched
        test = self._test
        environment = ThreeBodyEnvironment(every, TEST_SEEDS[: test.episodes], test.horizon)
        played = _play(environment, holding(choose, problem.hold), watched)
        group = f"{problem.integrator}, {problem.control}"
        self.rows.append(
            step_row(
                name, group, played.cost, played.error, test.bad_error, played.returns, learned
            )
        )
        self.returns.append(played.returns)
        self._context.progress(len(self.rows), self._total)


def _play(environment: ThreeBodyEnvironment, choose: Choose, watched: Watched | None) -> Episodes:
    if watched is None:
        return play(environment, choose)

    def watch() -> None:
        watched.closest.append(environment.closest())
        watched.places.append(environment.places())

    played = play(environment, choose, watch)
    watched.choices = np.asarray(played.choices)
    return played
