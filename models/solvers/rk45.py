"""Dormand and Prince's Runge-Kutta method of order 5(4), every sample with steps of its own.

Time, step size, error norm and acceptance are per sample, and a sample that has arrived leaves the
batch. So a result does not depend on the batch it was computed in (beyond the rounding of matrix
products), which a common error norm would make it do. The host looks at the batch once per step of
six evaluations.
"""

from dataclasses import dataclass

import torch

from models.flows.flow import Flow
from models.flows.path import expand_time
from models.shapes import Float, Int, Tensor
from models.solvers.solution import Solution, check_finite

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH_ORDER = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Fifth minus fourth order weights; the seventh velocity is the next step's first."""
_EVALUATIONS = 6

_SAFETY = 0.9
_LARGEST_GROWTH = 10.0
_LARGEST_SHRINK = 0.2


@dataclass
class _Active:
    """The samples still on their way: rows of the batch, points, times, velocities, next steps."""

    rows: Tensor
    x: Tensor
    t: Tensor
    velocity: Tensor
    h: Tensor
    label: Tensor | None
    nfe: int
    """Evaluations of each of them: the same for all, for all step together."""

    def keep(self, chosen: Tensor) -> "_Active":
        label = None if self.label is None else self.label[chosen]
        parts = (part[chosen] for part in (self.rows, self.x, self.t, self.velocity, self.h))
        return _Active(*parts, label, self.nfe)


def rk45(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    label: Int[Tensor, "b"] | None,
    t_start: float,
    t_end: float,
    tolerance: float,
    max_evaluations: int,
) -> Solution:
    """Integrates each sample with its own steps; two evaluations to begin, six a step.

    A step is accepted if the root mean square over the pixels of
    error / (tolerance + tolerance max(|x|, |x_new|)) is at most 1.

    Args:
        flow: the velocity.
        x0: points at t_start.
        label: classes of a conditional flow.
        t_start: time of x0.
        t_end: end time, which the last step meets exactly.
        tolerance: absolute and relative error per step.
        max_evaluations: evaluations per sample after which to give up.

    Raises:
        FloatingPointError: samples are not finite, or have not arrived after max_evaluations.

    Source: Dormand and Prince, J. Comp. Appl. Math. 6 (1980); step control and first step as in
    Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section II.4.
    """
    x1 = torch.empty_like(x0)
    nfe = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
    active = _begin(flow, x0, label, t_start, t_end, tolerance)
    while len(active.rows) > 0:
        if active.nfe + _EVALUATIONS > max_evaluations:
            raise _too_slow(active, len(x0), max_evaluations)
        active, arrived = _step(flow, active, t_end, tolerance)
        if bool(arrived.any()):
            check_finite
            x1[active.rows[arrived]] = active.x[arrived]
            nfe[active.rows[arrived]] = active.nfe
            active = active.keep(~arrived)
    return Solution(x1, nfe)
