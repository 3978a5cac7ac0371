"""Samples that walk from noise to image by steps that somebody else chooses.

Each sample has a time of its own; one that has arrived is left alone. What a policy sees of a
sample is a function of that sample alone.
"""

import math

import numpy as np
import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.solvers.runge_kutta import BOGACKI_SHAMPINE, FlowPoint, begin, rms, take_step
from slimctl.models.solvers.solution import Solution, check_finite
from slimctl.models.steps.environment import Choose, Floats, Integers, Observation
from slimctl.models.steps.spec import FlowProblem

EVALUATION_UNIT = 30.0
"""Evaluations that count as 1 in rewards and observations."""
_NEARLY = 0.999
"""A step of this share of the way that is left ends at t = 1."""
_TINY = 1e-9
_NEAR = 1e-2
"""Way that is left from which a policy sees no difference."""


def observation_size(actions: int) -> int:
    """Numbers that a policy sees, with so many step sizes to choose from."""
    return 7 + 2 * actions


class FlowWalk:
    """A batch of samples between two steps."""

    def __init__(
        self,
        flow: Flow,
        x0: Float[Tensor, "b c h w"],
        label: Int[Tensor, " b"] | None,
        t_start: float | None = None,
    ) -> None:
        """Evaluates the velocity of each sample once."""
        self._flow = flow
        entered = flow.enter(x0) if t_start is None else x0
        self.point = begin(flow, entered, label, flow.t_start if t_start is None else t_start)
        count, device = len(x0), x0.device
        self.nfe = torch.ones(count, dtype=torch.int64, device=device)
        self.last_h = torch.full((count,), 0.1, dtype=torch.float64, device=device)
        self.error = torch.full((count,), _TINY, dtype=torch.float64, device=device)
        """Error estimate of the last step, RMS."""
        self.drift = torch.full((count,), _TINY, dtype=torch.float64, device=device)
        """Sum of these."""
        self.bend = torch.full((count,), _TINY, dtype=torch.float64, device=device)
        """|v - v_before| / |v| over the last step."""

    def __len__(self) -> int:
        return len(self.nfe)

    def arrived(self) -> Tensor:
        """Which samples are at t = 1, (B,)."""
        return self.point.t >= 1.0

    def observe(self, problem: FlowProblem) -> Observation:
        """What a policy sees, (B, 7 + 2 n) for n step sizes, scaled to be of order 1.

        t, log10 of the last step, of its error and of the summed errors over the tolerance,
        evaluations / 30, log10 of the relative change of the velocity over the last step and of
        1 - t; then of each step size whether it ends the episode, and log10 of what it would leave.
        Worths jump where a step just ends it, which a network of t alone does not learn.
        """
        left, tolerance = 1.0 - self.point.t, problem.reward.tolerance
        columns = (
            self.point.t,
            self.last_h.log10() + 1.0,
            (self.error / tolerance).clamp(min=1e-4).log10() / 2.0,
            (self.drift / tolerance).clamp(min=1e-4).log10() / 2.0,
            self.nfe.double() / EVALUATION_UNIT,
            self.bend.clamp(min=1e-4).log10() / 2.0 + 0.5,
            left.clamp(min=1e-3).log10() + 0.5,
        )
        sizes = torch.tensor(problem.actions, dtype=torch.float64, device=left.device)
        ends = (sizes >= _NEARLY * left[:, None]).double()
        after = (left[:, None] - sizes).clamp(min=_NEAR).log10() + 1.0
        seen = torch.cat([torch.stack(columns, dim=1), ends, after], dim=1).float().cpu().numpy()
        return np.asarray(np.nan_to_num(seen, nan=10.0, posinf=10.0, neginf=-10.0))

    def advance(self, step: Float[Tensor, " b"]) -> None:
        """Takes a step in every sample that has not arrived: three evaluations, two at the end.

        Sizes (B,), float64, are shortened where t = 1 is nearer.
        """
        rows = (~self.arrived()).nonzero().squeeze(1)
        here = self.point.keep(rows)
        left = 1.0 - here.t
        last = step[rows] >= _NEARLY * left
        h = torch.where(last, left, step[rows])
        x_new, velocities = take_step(BOGACKI_SHAMPINE, self._flow, here, h)
        t_new = torch.where(last, 1.0, here.t + h)
        self.nfe[rows] += 2
        self.point.x[rows], self.point.t[rows] = x_new, t_new
        self.last_h[rows] = h
        walking = (~last).nonzero().squeeze(1)
        if len(walking):
            earlier = [velocity[walking] for velocity in velocities]
            ahead = FlowPoint(x_new, t_new, x_new, here.label).keep(walking)
            self._arrive(rows[walking], ahead, h[walking], earlier)

    def _arrive(self, rows: Tensor, ahead: FlowPoint, h: Tensor, earlier: list[Tensor]) -> None:
        """The velocity at the new points, and what it tells of the step."""
        velocity = self._flow.velocity(ahead.x, ahead.t.to(ahead.x.dtype), ahead.label)
        method = BOGACKI_SHAMPINE
        error = rms(method.combine(h, method.error, [*earlier, velocity]))
        self.bend[rows] = rms(velocity - earlier[0]) / rms(velocity).clamp(min=_TINY)
        self.point.velocity[rows] = velocity
        self.error[rows] = error
        self.drift[rows] += error
        self.nfe[rows] += 1


def step_sizes(actions: Floats, choice: Integers, walk: FlowWalk) -> Tensor:
    """Step sizes of the chosen actions, on the walk's device."""
    return torch.from_numpy(actions[choice]).to(walk.nfe.device)


@torch.no_grad()
def solve_with_policy(
    problem: FlowProblem,
    choose: Choose,
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Int[Tensor, " b"] | None = None,
    t_start: float | None = None,
) -> Solution:
    """Integrates each sample from t_start to 1 by the steps that a policy chooses for it.

    The problem is what the policy was trained on; a t_start of None is the flow's own.

    Raises:
        FloatingPointError: samples are not finite.
    """
    walk = FlowWalk(flow, x0.clone(), label, t_start)
    actions = np.array(problem.actions)
    start = flow.t_start if t_start is None else t_start
    for _ in range(math.ceil((1.0 - start) / problem.actions[0]) + 1):
        if bool(walk.arrived().all()):
            break
        seen = walk.observe(problem)
        walk.advance(step_sizes(actions, choose(seen), walk))
    check_finite(walk.point.x, 1.0)
    return Solution(walk.point.x, flow.evaluations * walk.nfe)
