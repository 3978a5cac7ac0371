"""Samples of a stored model as a file that people or programs read."""

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.evaluation.sampling import FLOW_STEPS, check_steps, open_sampler, takes_solver
from slimctl.jobs.storage.store import Store
from slimctl.models.pixels import to_uint8
from slimctl.models.solvers.spec import EulerSpec

BATCH = 256
SMALLEST_TILE_PX = 32
GAP_PX = 2
FOLLOWED = 5
FOLLOWED_STEPS = 24
"""Euler steps of a trajectory: a multiple of TIMES - 1."""
TIMES = 7


def write_samples(
    store: Store,
    artifact: str,
    output: Path,
    *,
    count: int,
    seed: int,
    label: int | None = None,
    nfe: int | None = None,
) -> None:
    """Draws samples 0..count-1 of a seed and writes them.

    Args:
        store: where the model is.
        artifact: id of a flow, generator or fleet.
        output: .npz gets `images` uint8 (N, H, W, C) and `labels` int64 (N,), -1 if unconditional;
            .png gets a sheet.
        count: number of samples.
        seed: of noise and labels.
        label: class of every sample; None = the data's mix.
        nfe: Euler steps of a flow, None = 50; a generator takes no number, but 1.

    Raises:
        UserError: not a model, no such class, or an unknown kind of file.
    """
    handle = store.load_any(artifact)
    if not isinstance(handle, (Flow, Generator, Fleet)):
        raise UserError(artifact, f"is a {type(handle).__name__}, which has no samples")
    known = [number for number, count in enumerate(handle.label_counts) if count]
    if label is not None and label not in known:
        listed = ", ".join(map(str, known)) if known else "none: it is unconditional"
        raise UserError(artifact, f"has no class {label}", f"its classes are {listed}")
    if output.suffix not in (".npz", ".png"):
        raise UserError(str(output), "ends in neither .npz nor .png")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_steps(handle, nfe)
    solver = EulerSpec(steps=nfe or FLOW_STEPS) if takes_solver(handle) else None
    sampler = open_sampler(store, handle, solver, device)
    images, labels = [], []
    for made in sampler.draw(seed, count, BATCH, label=label):
        images.append(made.images.float().cpu())
        unknown = torch.full((len(made.images),), -1)
        labels.append(unknown if made.labels is None else made.labels.cpu())
    pixels = torch.cat(images)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        save_sheet(pixels, output, columns=max(1, min(10, round(count**0.5))))
        return
    with output.open("wb") as file:
        np.savez(
            file,
            images=to_uint8(pixels).permute(0, 2, 3, 1).contiguous().numpy(),
            labels=torch.cat(labels).to(torch.int64).numpy(),
        )


@torch.no_grad()
def picture_of_flow(store: Store, flow: Flow) -> bytes:
    """A PNG with a row for each sample, from noise on the left to the image on the right."""
    sampler = open_sampler(store, flow, EulerSpec(steps=FOLLOWED_STEPS), torch.device("cpu"))
    index = torch.arange(FOLLOWED)
    label = sampler.labels(0, index)
    x = sampler.flow.enter(sampler.noise(0, index))
    start = sampler.flow.t_start
    size = (1.0 - start) / FOLLOWED_STEPS
    kept: list[Tensor] = [x]
    for step in range(FOLLOWED_STEPS):
        t = torch.full((FOLLOWED,), start + step * size)
        x = x + size * sampler.flow.velocity(x, t, label)
        if (step + 1) % (FOLLOWED_STEPS // (TIMES - 1)) == 0:
            kept.append(x)
    rows = torch.stack(kept, dim=1).flatten(0, 1)
    out = io.BytesIO()
    Image.fromarray(tiled(rows, TIMES)).save(out, "PNG")
    return out.getvalue()


def save_sheet(images: Tensor, path: Path, columns: int = 10) -> None:
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
