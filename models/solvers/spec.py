"""Which solver integrates a flow, without importing torch."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimctl.models.spec import Spec


class EulerSpec(Spec):
    """Euler's method on an even grid: order 1, one evaluation a step."""

    kind: Literal["euler"] = "euler"
    steps: int = Field(ge=1)
    """Steps from t_start to 1; evaluations per sample."""


class HeunSpec(Spec):
    """Heun's method on an even grid: order 2, two evaluations a step."""

    kind: Literal["heun"] = "heun"
    steps: int = Field(ge=1)
    """Steps from t_start to 1."""
    last_step: Literal["heun", "euler"] = "heun"
    """Method of the last step; `euler` saves its second evaluation, at t = 1, where flows made from
    a denoiser or from single images are singular (EDM's sampler does the same)."""


class RK45Spec(Spec):
    """Dormand and Prince's method of order 5(4) with a step size of its own for every sample."""

    kind: Literal["rk45"] = "rk45"
    tolerance: float = Field(default=1e-5, ge=1e-12, le=1.0)
    """Error allowed per step, root mean square over a sample's pixels, absolute and relative; below
    1e-6 the rounding of a float32 network is larger."""
    max_evaluations: int = Field(default=1000, ge=8)
    """Network evaluations per sample after which the solution counts as failed."""
    norm: Literal["sample", "batch"] = "sample"
    """What decides on a step: each sample's own error, or, as in the published code, the error of
    the whole batch, so that a sample depends on its batch mates; not for pairs."""


class EDMHeunSpec(Spec):
    """EDM's deterministic sampler, for flows that denoise: Heun's method in the noise level.

    Source: Karras et al., arXiv 2206.00364, algorithm 1; `steps: 18` are its 35 evaluations.
    """

    kind: Literal["edm_heun"] = "edm_heun"
    steps: int = Field(default=18, ge=2)
    """Steps; the last one, to the image, is Euler's: 2 steps - 1 evaluations per sample."""
    rho: float = Field(default=7.0, gt=0, le=100)
    """How much shorter the steps are at small noise levels."""
    sigma_min: float | None = Field(default=None, gt=0)
    """Last noise level before 0; null = 0.002, or the flow's smallest if that is larger."""
    sigma_max: float | None = Field(default=None, gt=0)
    """First noise level; null = 80, or the flow's largest if that is smaller."""

    @model_validator(mode="after")
    def _falling(self) -> "EDMHeunSpec":
        if self.sigma_min and self.sigma_max and self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max is {self.sigma_max}: sigma_min must "
                "be below sigma_max"
            )
        return self


class GridSpec(Spec):
    """A solver of fixed times and weights, such as `fit_step_grid` makes."""

    kind: Literal["grid"] = "grid"
    times: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(min_length=1, max_length=1000)
    """Times of the evaluations, increasing, the first being the flow's t_start."""
    weights: tuple[tuple[float, ...], ...] = Field(repr=False)
    """Row i (from 1) has i numbers: the weights of the first i velocities in the point that the
    next evaluation is made at; the last row makes the end."""

    @model_validator(mode="after")
    def _fits(self) -> "GridSpec":
        if any(low >= high for low, high in pairwise(self.times)):
            raise ValueError(f"times {list(self.times)} must increase")
        lengths = [len(row) for row in self.weights]
        if lengths != list(range(1, len(self.times) + 1)):
            raise ValueError(
                f"weights have rows of {lengths} numbers; {len(self.times)} times need rows of "
                f"1 to {len(self.times)}"
            )
        return self


SolverSpec = Annotated[
    EulerSpec | HeunSpec | RK45Spec | EDMHeunSpec | GridSpec, Field(discriminator="kind")
]
"""How a flow is integrated."""


def has_fixed_steps(solver: SolverSpec) -> bool:
    """Whether every batch takes the same evaluations, of all its samples."""
    return solver.kind != "rk45"


RK45_NFE, RK45_TOLERANCE, RK45_ORDER = 127.0, 1e-5, 5
"""Published for the 1-rectified flow of CIFAR-10 (Liu et al., arXiv 2209.03003, table 1)."""


def expected_nfe(solver: SolverSpec) -> tuple[float, str | None]:
    """Evaluations per sample, and what had to be assumed for it (None = it is exact).

    A solver that chooses its steps takes as many as its error asks for: the published count of one
    flow stands for any, and grows as tolerance^(-1 / order) does.
    """
    if solver.kind == "rk45":
        nfe = RK45_NFE * (RK45_TOLERANCE / solver.tolerance) ** (1 / RK45_ORDER)
        return nfe, f"rk45 at {solver.tolerance:g} takes {nfe:.0f} evaluations a sample"
    if solver.kind == "heun":
        return 2.0 * solver.steps - (solver.last_step == "euler"), None
    if solver.kind == "grid":
        return float(len(solver.times)), None
    if solver.kind == "edm_heun":
        return 2.0 * solver.steps - 1, None
    return float(solver.steps), None
