"""Samples of a stored model as a file that people or programs read."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.evaluation.sampling import (
    FLOW_STEPS,
    check_steps,
    open_sampler,
    save_sample_grid,
    takes_solver,
    tiled,
)
from slimctl.jobs.storage.store import Store
from slimctl.models.conditions import Embedded
from slimctl.models.flows.spec import GuidanceSpec
from slimctl.models.pixels import to_uint8
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import EulerSpec

BATCH = 256
FOLLOWED = 5
FOLLOWED_STEPS = 24
"""Euler steps of a trajectory: a multiple of TIMES - 1."""
TIMES = 7
LARGEST_SCALE = 1000.0


@dataclass(frozen=True)
class Asked:
    """What is asked of a model in words, and how firmly."""

    prompt: str | None = None
    """Of every sample; None = the prompts that a model of texts learned."""
    negative: str | None = None
    """What guidance drives away from; None = no text."""
    guidance: float | None = None
    """Scale of the guidance of a flow, 1 = none."""

    def guide(self, artifact: str) -> Guidance | None:
        """The guidance asked for.

        Raises:
            UserError: a negative prompt without guidance, or a scale out of its range.
        """
        if self.guidance is None:
            if self.negative is not None:
                what = "a negative prompt is what guidance drives away from, and there is none"
                raise UserError(artifact, what, "add --guidance, such as 5")
            return None
        if not 0.0 <= self.guidance <= LARGEST_SCALE:
            what = f"cannot be guided with the scale {self.guidance:g}"
            raise UserError(artifact, what, "give a number of 1 (no guidance) or more")
        return Guidance(GuidanceSpec(scale=self.guidance), None, self.negative or "")

    def text(self, artifact: str, sampler: Sampler) -> Embedded | None:
        """The prompt as the model takes it; None where nothing is asked for.

        Raises:
            UserError: it takes no texts, or has none of its own; or nothing encodes them.
        """
        texts = sampler.flow.text
        if self.prompt is None:
            if texts is not None and not texts.numbered:
                raise UserError(artifact, "is conditional on texts", 'add --prompt "..."')
            return None
        if texts is None:
            raise UserError(artifact, "takes no texts", "leave --prompt out")
        if not self.prompt.strip():
            raise UserError("--prompt", "is empty", "say what is wanted, or leave it out")
        return texts.encode(self.prompt)


def write_samples(
    store: Store,
    artifact: str,
    output: Path,
    *,
    count: int,
    seed: int,
    label: int | None = None,
    nfe: int | None = None,
    asked: Asked | None = None,
) -> None:
    """Draws samples 0..count-1 of a seed and writes them.

    Args:
        store: where the model is.
        artifact: id of a flow, generator or fleet.
        output: .npz gets `images` uint8 (N, H, W, C) and `labels` int64 (N,), -1 if unconditional
            or of a prompt that has no number; .png gets a sheet.
        count: number of samples.
        seed: of noise and labels.
        label: class of every sample; None = the data's mix.
        nfe: Euler steps of a flow, None = 50; a generator takes no number, but 1.
        asked: texts and guidance.

    Raises:
        UserError: not a model, no such class, an unknown kind of file, or the model takes no texts
            or cannot be guided.
    """
    asked = asked or Asked()
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
    sampler = open_sampler(store, handle, solver, device, asked.guide(artifact))
    text = asked.text(artifact, sampler)
    images, labels = [], []
    for made in sampler.draw(seed, count, BATCH, label=label if text is None else text):
        images.append(made.images.float().cpu())
        unknown = torch.full((len(made.images),), -1)
        labels.append(unknown if made.labels is None else made.labels.cpu())
    pixels = torch.cat(images)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".png":
        save_sample_grid(pixels, output, columns=max(1, min(10, round(count**0.5))))
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
    rows = sampler.flow.decode(torch.stack(kept, dim=1).flatten(0, 1))
    out = io.BytesIO()
    Image.fromarray(tiled(rows, TIMES)).save(out, "PNG")
    return out.getvalue()
