"""Measures step policies on the test noises of a flow, against adaptive solvers and even grids."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from slimctl.jobs.base.artifacts import FITTED, Flow, StepGrid, StepPolicy, StepRow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.stepping.episodes import device_here, flow_noises
from slimctl.jobs.stepping.rows import step_row
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.policies import open_policy
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.shapes import Tensor
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.runge_kutta import rk23, rms
from slimctl.models.solvers.solution import Solution
from slimctl.models.solvers.spec import HeunSpec, RK45Spec
from slimctl.models.stepping.environment import Floats, excess
from slimctl.models.stepping.flow_environment import Noises
from slimctl.models.stepping.flow_walk import EVALUATION_UNIT, FlowWalk, solve_with_policy
from slimctl.models.stepping.spec import FlowProblem, TelescopingReward

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
    episodes: int,
    grids: Mapping[str, StepGrid],
    bad_error: float,
) -> tuple[tuple[StepRow, ...], tuple[Floats, ...]]:
    """Solves the test noises in every way and compares with their exact ends.

    Args:
        context: of the job.
        policy: the policies.
        problem: that they were trained on.
        flow: to solve.
        episodes: test noises, numbers 0, 1, ...
        grids: fitted solvers, by the name of their job.
        bad_error: RMS distance above which a sample counts as bad.

    Returns:
        A row for each policy, step size of the grid, even grid, fitted grid and tolerance of rk45
        and rk23; and the returns of each row, by noise.
    """
    runnable = open_flow(context.store, flow, device_here())
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
        error.append(rms(solved.x1 - noises.x1[part]))
    return torch.cat(cost).cpu().numpy(), torch.cat(error).cpu().numpy()


def _returns(cost: Floats, error: Floats, reward: TelescopingReward) -> Floats:
    """What the decision process pays for whole episodes."""
    spent = reward.cost_weight * (cost - 1.0) / EVALUATION_UNIT
    return np.asarray(-spent - reward.error_weight * excess(error, reward.tolerance))
