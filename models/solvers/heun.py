"""Heun's method (the explicit trapezoid rule) on a grid of times."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.solution import Solution, check_finite


def heun(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    times: Sequence[float],
    last_step: Literal["heun", "euler"] = "heun",
    keep_states: bool = False,
) -> Solution:
    """Steps x + h (v(x, t) + v(x + h v(x, t), t + h)) / 2; error of order h^2.

    The last step may be Euler's, which leaves out the evaluation at times[-1]; `keep_states`
    returns the point at every time.

    Raises:
        FloatingPointError: a sample is not finite at the end.

    Source: Karras et al., arXiv 2206.00364, algorithm 1 without its noise, in our time.
    """
    x, states = x0, [x0]
    for number, (t, t_next) in enumerate(pairwise(times), start=1):
        h = t_next - t
        velocity = flow.velocity(x, torch.full_like(x[:, 0, 0, 0], t), label)
        predicted = x + h * velocity
        if last_step == "euler" and number == len(times) - 1:
            x = predicted
        else:
            end = torch.full_like(x[:, 0, 0, 0], t_next)
            x = x + (h / 2.0) * (velocity + flow.velocity(predicted, end, label))
        if keep_states:
            states.append(x)
    check_finite(x, times[-1])
    evaluations = 2 * (len(times) - 1) - (last_step == "euler")
    nfe = torch.full((len(x),), evaluations, device=x.device)
    return Solution(x, nfe, tuple(times), tuple(states)) if keep_states else Solution(x, nfe)
