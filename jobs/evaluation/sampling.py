"""Opening models of the store for sampling, and sheets of samples as PNG."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slimctl.jobs.base.artifacts import Autoencoder, Fleet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.flows import later, open_fleet, open_guided, open_running
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.texts import marginal_of
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.pixels import to_uint8
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import GridSpec, RK45Spec, SolverSpec
from slimctl.models.spec import SamplingPrecision

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
    store: Store,
    model: Flow | Generator | Fleet,
    solver: SolverSpec | None,
    device: torch.device,
    guidance: Guidance | None = None,
    precision: SamplingPrecision = "float32",
    batches: int = 0,
    decoder: Autoencoder | None = None,
) -> Sampler:
    """Opens a model of the store for sampling; a flow may be guided, latents are decoded.

    `precision` is of the networks' products; of so many batches, fixed steps are compiled on a GPU
    where that pays.

    Raises:
        UserError: a flow without a solver, a generator with one, or a model that cannot be guided.
    """
    if guidance is not None and not isinstance(model, Flow):
        raise UserError(model.id, "is no flow and cannot be guided", "leave guidance out")
    if takes_solver(model) and solver is None:
        raise UserError(model.id, "is a flow and needs a solver", "give a number of steps")
    if not takes_solver(model) and solver is not None:
        raise UserError(model.id, "makes images in one step and takes no solver")
    if isinstance(model, Fleet):
        flow: RunnableFlow = open_fleet(store, model, device, precision)
    elif isinstance(model, Generator):
        network = open_running(store, model, device, precision)
        flow = NetworkFlow(network, model.image, model.t_start)
    else:
        flow = open_guided(store, model, guidance, device, precision)
    compiles = later(flow, solver, device, batches)
    flow.autoencoder = open_autoencoder(store, decoder or model.autoencoder, device)
    return Sampler(flow, solver, marginal_of(store, model), device, compiles)


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


SMALLEST_TILE_PX = 32
GAP_PX = 2


def save_sample_grid(images: Tensor, path: Path, columns: int = 10) -> None:
    """Writes images as a grid; arguments as in `tiled`, and the path of the PNG."""
    Image.fromarray(tiled(images, columns)).save(path)


def tiled(images: Tensor, columns: int = 10) -> NDArray[np.uint8]:
    """Images as a grid, small ones enlarged by whole factors: uint8 (height, width, 3).

    Args:
        images: float (N, C, H, W) in [-1, 1], C 1 or 3 (of more channels the first is shown).
        columns: images in a row.
    """
    tiles = to_uint8(images).cpu().permute(0, 2, 3, 1).numpy()
    channels = 3 if tiles.shape[3] == 3 else 1
    tiles = np.repeat(tiles[..., :1], 3, axis=3) if channels == 1 else tiles
    factor = max(1, -(-SMALLEST_TILE_PX // tiles.shape[1]))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    size = (rows * (height + GAP_PX) + GAP_PX, columns * (width + GAP_PX) + GAP_PX, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top = GAP_PX + (number // columns) * (height + GAP_PX)
        left = GAP_PX + (number % columns) * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = tile
    return sheet
