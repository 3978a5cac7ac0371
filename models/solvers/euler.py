"""Euler's method on a grid of times."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.solution import Solution, check_finite


def euler(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    times: Sequence[float],
    keep_states: bool = False,
) -> Solution:
    """Steps x + h v(x, t) between neighbouring times; error of order h.

    A flow that knows mean velocities gives that of each step, and any number of steps is exact.

    `keep_states` returns the point at every time.

    Raises:
        FloatingPointError: a sample is not finite at the end.
    """
    x, states = x0, [x0]
    for t, t_next in pairwise(times):
        now, end = (torch.full_like(x[:, 0, 0, 0], time) for time in (t, t_next))
        x = x + (t_next - t) * flow.mean_velocity(x, now, end, label)
        if keep_states:
            states.append(x)
    check_finite(x, times[-1])
    nfe = torch.full((len(x),), len(times) - 1, device=x.device)
    return Solution(x, nfe, tuple(times), tuple(states)) if keep_states else Solution(x, nfe)
