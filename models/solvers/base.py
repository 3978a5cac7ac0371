"""`solve`: the one way into the solvers.

A solver takes a flow and labels, not a bare function, because a solver with a step size per sample
evaluates shrinking parts of the batch and the labels have to follow.
"""

from dataclasses import replace

import torch

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Tensor
from slimctl.models.solvers.edm_heun import SIGMA_MAX, SIGMA_MIN, edm_heun
from slimctl.models.solvers.euler import euler
from slimctl.models.solvers.grid import grid
from slimctl.models.solvers.heun import heun
from slimctl.models.solvers.runge_kutta import rk45
from slimctl.models.solvers.solution import Solution
from slimctl.models.solvers.spec import EDMHeunSpec, EulerSpec, GridSpec, HeunSpec, RK45Spec

__all__ = ["Solution", "even_times", "solve"]


@torch.no_grad()
def solve(
    spec: EulerSpec | HeunSpec | RK45Spec | EDMHeunSpec | GridSpec,
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Condition = None,
    t_start: float | None = None,
    t_end: float = 1.0,
    keep_states: bool = False,
) -> Solution:
    """Integrates dx/dt = v(x, t, label) from t_start to t_end; records no gradient.

    Args:
        spec: the method.
        flow: the velocity; put its network into eval mode first.
        x0: noise of unit variance; with a t_start of the caller's, points at that time.
        label: classes of a conditional flow.
        t_start: time of x0 in [0, t_end); None is the flow's own, which the noise enters.
        t_end: end time in (t_start, 1].
        keep_states: return the point at every time of the grid; not with rk45, whose samples have
            times of their own.

    Raises:
        ValueError: times out of order, labels that do not fit, or states asked of rk45.
        FloatingPointError: samples are not finite, or rk45 ran out of evaluations.
    """
    solution = _solve(spec, flow, x0, label, t_start, t_end, keep_states)
    return replace(solution, nfe=flow.evaluations * solution.nfe)


def _solve(
    spec: EulerSpec | HeunSpec | RK45Spec | EDMHeunSpec | GridSpec,
    flow: Flow,
    x0: Tensor,
    label: Condition,
    t_start: float | None,
    t_end: float,
    keep_states: bool,
) -> Solution:
    """`solve`, counting velocities."""
    if isinstance(spec, EDMHeunSpec):
        if keep_states or t_start is not None or t_end != 1.0:
            raise ValueError("edm_heun goes from sigma_max to the image and keeps no states")
        return _edm_heun(spec, flow, x0, label)
    start = flow.t_start if t_start is None else t_start
    if not 0.0 <= start < t_end <= 1.0:
        raise ValueError(f"t_start is {start}, t_end {t_end}: 0 <= t_start < t_end <= 1 is needed")
    x0 = flow.enter(x0) if t_start is None else x0
    if isinstance(spec, RK45Spec):
        if keep_states:
            raise ValueError("rk45 has no common grid of states: use euler or heun to see them")
        shared = spec.norm == "batch"
        return rk45(flow, x0, label, start, t_end, spec.tolerance, spec.max_evaluations, shared)
    if isinstance(spec, GridSpec):
        if abs(start - spec.times[0]) > 1e-9 or t_end != 1.0:
            raise ValueError(
                f"the grid goes from t = {spec.times[0]:g} to 1, not from {start:g} to {t_end:g}: "
                "fit one to this flow"
            )
        return grid(flow, x0, label, spec.times, spec.weights, keep_states)
    times = even_times(start, t_end, spec.steps)
    if isinstance(spec, HeunSpec):
        return heun(flow, x0, label, times, spec.last_step, keep_states)
    return euler(flow, x0, label, times, keep_states)


def _edm_heun(spec: EDMHeunSpec, flow: Flow, x0: Tensor, label: Condition) -> Solution:
    if flow.sigma_range is None:
        raise ValueError(f"edm_heun needs a denoiser, not a {type(flow).__name__}: use heun")
    lowest, highest = flow.sigma_range
    low = max(lowest, SIGMA_MIN) if spec.sigma_min is None else spec.sigma_min
    high = min(highest, SIGMA_MAX) if spec.sigma_max is None else spec.sigma_max
    return edm_heun(flow, x0, label, spec.steps, low, spec.rho, high)


def even_times(t_start: float, t_end: float, steps: int) -> tuple[float, ...]:
    """Makes steps + 1 evenly spaced times, both ends exact."""
    inner = (t_start + (t_end - t_start) * number / steps for number in range(steps))
    return (*inner, t_end)
