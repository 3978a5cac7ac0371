"""Solvers as a field holds them, and which flows they go with, known before anything runs."""

from collections.abc import Mapping
from typing import Any

from slimctl.jobs.base.artifacts import StepGrid
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.solvers.spec import EDMHeunSpec, SolverSpec, expected_nfe


def asked_nfe(
    solver: SolverSpec | Ref[Any], inputs: Mapping[str, Facts]
) -> tuple[float | None, str | None]:
    """Evaluations per sample of what a field `solver` holds, and what was assumed for it."""
    return (inputs["solver"].nfe, None) if isinstance(solver, Ref) else expected_nfe(solver)


def check_solver(solver: SolverSpec | Ref[Any], flow: Parameterisation | None, job: str) -> None:
    """Checks that a flow, None where nothing is known yet, can be followed by a solver.

    Raises:
        FieldError: EDM's sampler for a flow without noise levels, or outside of them.
    """
    if not isinstance(solver, EDMHeunSpec) or flow is None:
        return
    if not flow.denoises:
        raise FieldError(
            "solver",
            f"edm_heun goes through the noise levels of a denoiser, but '{job}' is a flow that "
            "predicts velocities",
            "use kind: heun, euler or rk45",
        )
    low, high = flow.levels()
    for name, level in (("sigma_min", solver.sigma_min), ("sigma_max", solver.sigma_max)):
        if level is not None and not low * 0.999 <= level <= high * 1.001:
            raise FieldError(
                f"solver.{name}",
                f"{name} is {level:g}, but '{job}' knows noise levels from {low:g} to {high:g}",
                f"leave out {name}, or give one between",
            )


def fitted_solver(context: JobContext, solver: SolverSpec | Ref[StepGrid]) -> SolverSpec:
    """The solver itself; that of the grid where the field names a job."""
    return context.input(solver).solver if isinstance(solver, Ref) else solver
