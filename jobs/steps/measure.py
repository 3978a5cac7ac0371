"""Measures step policies: against fixed steps on systems, against other solvers on noises."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from slimctl.jobs.base.artifacts import ADAPTIVE, FITTED, Flow, StepGrid, StepPolicy, StepRow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.steps.episodes import device_here, flow_noises
from slimctl.jobs.storage.flows import open_guided, open_policy
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.shapes import Tensor
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.runge_kutta import rk23, rms
from slimctl.models.solvers.solution import Solution
from slimctl.models.solvers.spec import HeunSpec, RK45Spec
from slimctl.models.steps.environment import (
    Choose,
    Floats,
    Integers,
    always,
    excess,
    holding,
    play,
)
from slimctl.models.steps.flow_environment import Noises
from slimctl.models.steps.flow_walk import EVALUATION_UNIT, FlowWalk, solve_with_policy
from slimctl.models.steps.spec import (
    INTEGRATORS,
    FlowProblem,
    IntegratorName,
    StepControl,
    TelescopingReward,
    ThreeBodyProblem,
)
from slimctl.models.steps.three_body_environment import TEST_SEEDS, ThreeBodyEnvironment

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
    """A row of the report."""
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
    """Plays the test systems with every fixed value, the default and every policy."""
    table = _Table(context, test, _total(policy, problem))
    values = sorted({*problem.actions, DEFAULT_MU})
    chooser = {n: open_policy(context.store, policy, n) for n in range(len(policy.validation))}
    watched = Watched()
    table.fixed(problem, values)
    for number, choose in chooser.items():
        kept = watched if number == policy.chosen else None
        table.row(problem, f"policy, seed {number}", choose, kept)
    own = len(table.rows)
    for integrator, control in _others(problem):
        other = problem.model_copy(update={"integrator": integrator, "control": control})
        table.fixed(other, [value for value in values if value >= SMALLEST_TRANSFER_MU])
        table.row(other, "policy", chooser[policy.chosen])
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
            self.row(grid, f"mu {value:g}", always(number), learned=False)

    def row(
        self, problem: ThreeBodyProblem, name: str, choose: Choose,
        watched: Watched | None = None, *, learned: bool = True,
    ) -> None:  # fmt: skip
        """Plays the test systems once."""
        every = problem.model_copy(update={"hold": 1})  # so that every interval can be watched
        test = self._test
        environment = ThreeBodyEnvironment(every, TEST_SEEDS[: test.episodes], test.horizon)

        def watch() -> None:
            if watched is not None:
                watched.closest.append(environment.closest())
                watched.places.append(environment.places())

        played = play(environment, holding(choose, problem.hold), watch)
        if watched is not None:
            watched.choices = np.asarray(played.choices)
        group = f"{problem.integrator}, {problem.control}"
        cost, error, returns = played.cost, played.error, played.returns
        self.rows.append(step_row(name, group, cost, error, test.bad_error, returns, learned))
        self.returns.append(returns)
        self._context.progress(len(self.rows), self._total)


TOLERANCES = tuple(10.0 ** (-power / 2.0) for power in range(2, 11))
"""1e-1 to 1e-5 by half decades."""
EVEN_STEPS = (3, 4, 5, 6, 7, 8, 10, 12, 16)
HEUN_STEPS = (4, 6, 8, 12, 16, 24)
MAX_EVALUATIONS = 5000
_PIECE = 256
FIRST_TEST_NOISE = 0

Solve = Callable[[Tensor, Tensor | None], Solution]


def measure_flow(
    context: JobContext,
    policy: StepPolicy,
    problem: FlowProblem,
    flow: Flow,
    guidance: Guidance | None,
    episodes: int,
    grids: Mapping[str, StepGrid],
    bad_error: float,
) -> tuple[tuple[StepRow, ...], tuple[Floats, ...]]:
    """Solves the test noises in every way and compares with their exact ends.

    Returns:
        A row for each policy, step size of the grid, even grid, fitted grid and tolerance of rk45
        and rk23; and the returns of each row, by noise.
    """
    runnable = open_guided(context.store, flow, guidance, device_here())
    noises = flow_noises(problem, flow, runnable, FIRST_TEST_NOISE, episodes)
    assert noises.nfe is not None
    context.log(f"the exact ends took {noises.nfe:.0f} evaluations a sample")
    ways = _ways(context, policy, problem, runnable)
    for name, grid in grids.items():
        run = partial(solve, grid.solver, runnable)
        ways.append(_Way(f"{name}, {grid.nfe} evaluations", FITTED, run))
    rows, returns = [], []
    for way in ways:
        cost, error = _measured(way.run, noises)
        paid = _returns(cost, error, problem.reward)
        rows.append(step_row(way.name, way.group, cost, error, bad_error, paid, way.learned))
        returns.append(paid)
        context.progress(len(rows), len(ways))
    return tuple(rows), tuple(returns)


@dataclass(frozen=True)
class _Way:
    """One way to solve the flow equation."""

    name: str
    group: str
    run: Solve
    learned: bool = False


def _ways(
    context: JobContext, policy: StepPolicy, problem: FlowProblem, flow: RunnableFlow
) -> list[_Way]:
    """Everything that is compared: policies, even steps, adaptive solvers."""
    ways = []
    for number in range(len(policy.validation)):
        choose = open_policy(context.store, policy, number)
        run = partial(solve_with_policy, problem, choose, flow)
        ways.append(_Way(f"policy, seed {number}", "policy", run, learned=True))
    ways += [_Way(f"h {h:g}", "fixed step", partial(_even, flow, h)) for h in problem.actions]
    for count in EVEN_STEPS:
        name = f"rk23, {count} even steps"
        ways.append(_Way(name, "even grid, rk23", partial(_even, flow, 1.0 / count)))
    for count in HEUN_STEPS:
        heun = HeunSpec(steps=count, last_step="euler")
        name = f"heun, {count} even steps"
        ways.append(_Way(name, "even grid, heun", partial(solve, heun, flow)))
    for tolerance in TOLERANCES:
        rk45 = RK45Spec(tolerance=tolerance, max_evaluations=MAX_EVALUATIONS)
        ways.append(_Way(f"rk45 {tolerance:.1e}", "rk45", partial(solve, rk45, flow)))
    for tolerance in TOLERANCES:
        run = partial(rk23, flow, tolerance=tolerance, max_evaluations=MAX_EVALUATIONS)
        ways.append(_Way(f"rk23 {tolerance:.1e}", "rk23", run))
    return ways


def _even(flow: RunnableFlow, step: float, x0: Tensor, label: Tensor | None) -> Solution:
    """Steps of one size, the last one shorter where it has to be."""
    walk = FlowWalk(flow, x0.clone(), label)
    for _ in range(math.ceil((1.0 - flow.t_start) / step) + 1):
        walk.advance(torch.full_like(walk.last_h, step))
    return Solution(walk.point.x, walk.nfe)


@torch.no_grad()
def _measured(run: Solve, noises: Noises) -> tuple[Floats, Floats]:
    """Evaluations and RMS distance to the exact end of each noise."""
    cost, error = [], []
    for part in torch.split(torch.arange(len(noises.x0), device=noises.x0.device), _PIECE):
        label = None if noises.label is None else noises.label[part]
        solved = run(noises.x0[part], label)
        cost.append(solved.nfe.double())
        error.append(rms(solved.x1 - noises.x1[part]) / noises.unit)
    return torch.cat(cost).cpu().numpy(), torch.cat(error).cpu().numpy()


def _returns(cost: Floats, error: Floats, reward: TelescopingReward) -> Floats:
    """What the decision process pays for whole episodes."""
    spent = reward.cost_weight * (cost - 1.0) / EVALUATION_UNIT
    return np.asarray(-spent - reward.error_weight * excess(error, reward.tolerance))
