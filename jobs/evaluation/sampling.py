"""Samples of a model as functions of (seed, number): flows by a solver, generators in one step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.base.artifacts import Fleet, Flow, Generator
from jobs.base.errors import UserError
from jobs.storage.flows import open_fleet, open_flow, open_network
from jobs.storage.store import Store
from models import counter_random
from models.counter_random import Stream
from models.flows.flow import Flow as RunnableFlow
from models.flows.flow import NetworkFlow
from models.flows.losses import one_step_velocity
from models.solvers.base import solve
from models.solvers.spec import GridSpec, RK45Spec, SolverSpec
from models.spec import ImageShape


@dataclass(frozen=True)
class Samples:
    """A batch of samples."""

    images: Tensor
    """float32 (B, C, H, W), not clipped."""
    labels: Tensor | None
    nfe: Tensor
    """Network evaluations of each sample, (B,)."""


@dataclass(frozen=True)
class Sampler:
    """A model on a device, ready to draw.

    Args:
        flow: its velocity.
        solver: how a flow is followed; None = in one step (a generator).
        label_counts: label marginal; () if unconditional.
        device: where it computes.
    """

    flow: RunnableFlow
    solver: SolverSpec | None
    label_counts: tuple[int, ...]
    device: torch.device

    @property
    def image(self) -> ImageShape:
        """Shape of the images."""
        return self.flow.image

    def noise(self, seed: int, index: Tensor) -> Tensor:
        """x0 of the samples `index`, float32 (B, C, H, W): the same for every model of a shape."""
        shape = (self.image.channels, self.image.size, self.image.size)
        return counter_random.normal(seed, Stream.SAMPLE_NOISE, index, shape)

    def labels(self, seed: int, index: Tensor) -> Tensor | None:
        """Labels of the samples `index` from the marginal; None if unconditional."""
        if not self.label_counts:
            return None
        return counter_random.categorical(seed, Stream.SAMPLE_LABEL, index, self.label_counts)

    @torch.no_grad()
    def generate(self, x0: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images of noise, and the network evaluations of each."""
        if self.solver is None:
            images = x0 + one_step_velocity(self.flow, x0, label)
            return images, torch.ones(len(x0), dtype=torch.int64)
        solution = solve(self.solver, self.flow, x0, label)
        return solution.x1, solution.nfe

    def draw(self, seed: int, count: int, batch_size: int, first: int = 0) -> Iterator[Samples]:
        """`count` samples of a seed from number `first` on, in batches."""
        numbers = torch.arange(first, first + count, device=self.device)
        for index in torch.split(numbers, batch_size):
            label = self.labels(seed, index)
            images, nfe = self.generate(self.noise(seed, index), label)
            yield Samples(images, label, nfe)


def takes_solver(model: Flow | Generator | Fleet) -> bool:
    """Whether samples of a model take a solver: those of flows and of fleets of flows do."""
    return isinstance(model.members[0] if isinstance(model, Fleet) else model, Flow)


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
