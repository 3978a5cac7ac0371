"""Which solvers go with which flows, as far as it is known before anything runs."""

from collections.abc import Mapping
from typing import Any

from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.solvers.spec import EDMHeunSpec, SolverSpec, expected_nfe


def asked_nfe(
    solver: SolverSpec | Ref[Any], inputs: Mapping[str, Facts]
) -> tuple[float | None, str | None]:
    """Evaluations per sample of a solver or of a job that fits one, and what was assumed for it.

    Args:
        solver: what the field `solver` of a job holds.
        inputs: facts of the job's inputs, by field name.
    """
    return (inputs["solver"].nfe, None) if isinstance(solver, Ref) else expected_nfe(solver)


def check_solver(solver: SolverSpec | Ref[Any], flow: Parameterisation | None, job: str) -> None:
    """Checks that a flow can be followed by a solver.

    Args:
        solver: what the job asks for.
        flow: what is known of the flow; None = nothing yet.
        job: name of the job that makes the flow.

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
