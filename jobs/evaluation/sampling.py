"""Opening models of the store for sampling."""

import torch

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.flows import open_fleet, open_flow, open_network
from slimctl.jobs.storage.store import Store
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import GridSpec, RK45Spec, SolverSpec

FLOW_STEPS = 50
"""Euler steps of a flow where nobody says a number."""


def takes_solver(model: Flow | Generator | Fleet) -> bool:
    """Whether samples of a model take a solver: those of flows and of fleets of flows do."""
    return isinstance(model.members[0] if isinstance(model, Fleet) else model, Flow)


def check_steps(model: Flow | Generator | Fleet, nfe: int | None) -> None:
    """Refuses a number of steps for what takes one step.

    Raises:
        UserError: it was given for a one-step model.
    """
    if not takes_solver(model) and nfe not in (None, 1):
        raise UserError(model.id, f"makes images in one step, not {nfe}", "leave out --nfe")


def open_sampler(
    store: Store, model: Flow | Generator | Fleet, solver: SolverSpec | None, device: torch.device
) -> Sampler:
    """Opens a model of the store for sampling.

    Raises:
        UserError: a flow without a solver, or a generator with one.
    """
    if takes_solver(model) and solver is None:
        raise UserError(model.id, "is a flow and needs a solver", "give a number of steps")
    if not takes_solver(model) and solver is not None:
        raise UserError(model.id, "makes images in one step and takes no solver")
    if isinstance(model, Fleet):
        flow: RunnableFlow = open_fleet(store, model, device)
    elif isinstance(model, Generator):
        flow = NetworkFlow(open_network(store, model, device), model.image, model.t_start)
    else:
        flow = open_flow(store, model, device)
    return Sampler(flow, solver, model.label_counts, device)


def describe_solver(solver: SolverSpec | None) -> str:
    """The solver in words: `one step`, `euler 50`, `rk45 1e-05`, `rk45 1e-05 per batch`."""
    if solver is None:
        return "one step"
    if isinstance(solver, RK45Spec):
        shared = " per batch" if solver.norm == "batch" else ""
        return f"{solver.kind} {solver.tolerance:g}{shared}"
    if isinstance(solver, GridSpec):
        return f"{solver.kind} {len(solver.times)}"
    return f"{solver.kind} {solver.steps}"
