"""Fitting a step grid on samples of its own, and measuring it on others."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow, StepGrid
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.storage.flows import open_guided
from slimctl.jobs.storage.texts import marginal_of
from slimctl.models import counter_random
from slimctl.models.conditions import draw_labels
from slimctl.models.counter_random import Stream
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import (
    ROUNDING_RMS,
    end_errors,
    end_unit,
    fit_grid,
    follow,
)
from slimctl.models.solvers.spec import RK45Spec

if TYPE_CHECKING:
    from slimctl.jobs.kinds.fit_step_grid import FitStepGrid

MAX_EVALUATIONS = 5000
"""Of an exact trajectory, after which a flow is given up."""
TIGHTEST = 1e-6
"""Tolerance below which the rounding of a float32 network is larger than the error."""


@torch.no_grad()
def fit_step_grid(context: JobContext, spec: "FitStepGrid", handle: Flow) -> StepGrid:
    """Fits to `samples` trajectories and measures on `held_out` others, as everybody solves.

    Raises:
        FloatingPointError: the flow cannot be followed to the tolerance.
    """
    torch.set_num_threads(context.threads)
    device = torch.device(context.device)
    flow = open_guided(context.store, handle, spec.guided(context.handles), device)
    marginal = marginal_of(context.store, handle)

    def start(first: int, count: int) -> tuple[Tensor, Tensor | None]:
        index = torch.arange(first, first + count, device=device)
        shape = (handle.image.channels, handle.image.size, handle.image.size)
        x0 = counter_random.normal(spec.seed or 0, Stream.SAMPLE_NOISE, index, shape)
        return x0, draw_labels(marginal, spec.seed or 0, Stream.SAMPLE_LABEL, index)

    x0, label = start(0, spec.samples)
    exact = follow(flow, x0, label, spec.tolerance)
    context.progress(1, 3)
    solver = fit_grid(flow, exact, spec.evaluations, spec.rounds).solver
    context.progress(2, 3)
    x0, label = start(spec.samples, spec.held_out)
    # Ends a tenth as far off as those of the tolerance, which good grids come near to themselves.
    tight = min(spec.tolerance, max(spec.tolerance / 10, TIGHTEST))
    ends = solve(_rk45(tight), flow, x0, label).x1
    unit = end_unit(ends, relative=handle.autoencoder is not None)
    errors = end_errors(solve(solver, flow, x0, label).x1, ends) / unit
    exact_nfe = float(solve(_rk45(spec.tolerance), flow, x0, label).nfe.double().mean())
    median, p90, p99 = errors.quantile(errors.new_tensor([0.5, 0.9, 0.99])).tolist()
    share = float((errors <= ROUNDING_RMS).double().mean())
    context.log(
        f"{len(solver.times)} evaluations: error {median:.2g} (median), {p90:.2g} (90 %), "
        f"{share:.1%} within 8-bit rounding; an exact trajectory takes {exact_nfe:.0f}"
    )
    return StepGrid(
        image=handle.image,
        solver=solver,
        flow=handle.id,
        nfe=flow.evaluations * len(solver.times),
        error_median=median,
        error_p90=p90,
        error_p99=p99,
        share_within_rounding=share,
        samples=spec.held_out,
        exact_nfe=exact_nfe,
    )


def _rk45(tolerance: float) -> RK45Spec:
    return RK45Spec(tolerance=tolerance, max_evaluations=MAX_EVALUATIONS)
