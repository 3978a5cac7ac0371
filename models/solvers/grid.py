"""A fitted solver: fixed times, and for each of them how the velocities so far are weighted."""

from collections.abc import Sequence

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.solution import Solution, check_finite


def grid(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition,
    times: Sequence[float],
    weights: Sequence[Sequence[float]],
    keep_states: bool = False,
) -> Solution:
    """Evaluates u_i = v(x_i, t_i) at x_i = x0 + sum_{j < i} w_ij u_j; the end is x_n.

    t_0 < ... < t_(n-1) are the times, one evaluation each; row i of the weights has i entries.
    Every explicit Runge-Kutta and multistep method on fixed times is of this form.

    Raises:
        FloatingPointError: a sample is not finite at the end.

    Source: Shaul et al., Bespoke non-stationary solvers (arXiv 2403.01329), whose weight of x0 is 1
    here, so that a zero velocity is integrated exactly.
    """
    x, states = x0, [x0]
    velocities: list[Tensor] = []
    for t, row in zip(times, weights, strict=True):
        velocities.append(flow.velocity(x, torch.full_like(x[:, 0, 0, 0], t), label))
        x = combine(x0, row, velocities)
        if keep_states:
            states.append(x)
    check_finite(x, 1.0)
    nfe = torch.full((len(x),), len(times), device=x.device)
    return Solution(x, nfe, (*times, 1.0), tuple(states)) if keep_states else Solution(x, nfe)


def combine(
    x0: Float[Tensor, "b c h w"], row: Sequence[float], velocities: Sequence[Tensor]
) -> Float[Tensor, "b c h w"]:
    """x0 + sum_j row_j u_j, added in order."""
    x = x0.clone()
    for weight, velocity in zip(row, velocities, strict=True):
        x.add_(velocity, alpha=weight)
    return x
