"""Fits a solver of a few fixed evaluations to a flow's exact end points."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow, StepGrid
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SeededJobSpec


class FitStepGrid(GuidedJobSpec, SeededJobSpec):
    """Times and weights that serve all samples of a flow, for `generate_pairs` and `evaluate`.

    Source:
        The form of the solver is that of BNS (arXiv 2403.01329), the target, the end point of an
        exact solver, that of LD3 (arXiv 2405.15506) too; the fit is by least squares.
    """

    version: ClassVar[int] = 2

    flow: Ref[Flow]
    """The flow."""
    evaluations: int = Field(default=16, ge=5, le=30)
    """Network evaluations per sample."""
    samples: int = Field(default=64, ge=8)
    """Exact trajectories fitted to; all are in memory at once."""
    held_out: int = Field(default=64, ge=8)
    """Exact end points that the error is measured on."""
    tolerance: float = Field(default=1e-5, ge=1e-7, le=1e-2)
    """Of the exact solver, per step, as of `rk45`."""
    rounds: int = Field(default=1, ge=0, le=20)
    """How often each time is moved on its own; 0 = the best of a family of grids."""

    def wants_gpu(self) -> bool:
        return True

    def run(self, context: JobContext) -> StepGrid:
        from slimctl.jobs.evaluation.step_grid import fit_step_grid

        flow = self.prompted(context.handles, context.input(self.flow))
        return fit_step_grid(context, self, flow)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        nfe = float(self.costs * self.evaluations)
        made = Facts(image=inputs["flow"].image, nfe=nfe)
        return check_each(made, lambda: self.check_guidance(inputs, "flow", self.flow.job))
