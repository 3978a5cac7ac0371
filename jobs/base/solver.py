"""A solver as a field holds it: written out, or the result of a job that fitted one."""

from slimctl.jobs.base.artifacts import StepGrid
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.refs import Ref
from slimctl.models.solvers.spec import SolverSpec


def fitted_solver(context: JobContext, solver: SolverSpec | Ref[StepGrid]) -> SolverSpec:
    """The solver itself; that of the grid where the field names a job."""
    return context.input(solver).solver if isinstance(solver, Ref) else solver
