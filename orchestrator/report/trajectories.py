"""Samples of flows on their way from noise to images."""

import io
from collections.abc import Mapping

import torch
from PIL import Image
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow, QualityReport
from slimctl.jobs.base.errors import SlimError
from slimctl.jobs.evaluation.sampling import open_sampler, tiled
from slimctl.jobs.storage.store import Store
from slimctl.models.solvers.spec import EulerSpec

SAMPLES = 5
TIMES = 7
STEPS = 24
"""Euler steps of a trajectory: a multiple of TIMES - 1."""
MOST_FLOP = 5e12
"""Work of one picture that nobody minds waiting for."""
MOST_FLOWS = 4


def follow_flows(
    store: Store, reports: Mapping[str, QualityReport]
) -> tuple[dict[str, bytes], list[str]]:
    """A picture for each measured flow, all from the same noise; and what was left out, why."""
    pictures: dict[str, bytes] = {}
    remarks: list[str] = []
    seen: set[str] = set()
    for name, report in reports.items():
        if report.model_type != "Flow" or report.model in seen or len(pictures) >= MOST_FLOWS:
            continue
        seen.add(report.model)
        if 2.0 * report.macs * STEPS * SAMPLES > MOST_FLOP:
            remarks.append(f"no trajectories of {name}: its network is too large to follow here")
            continue
        try:
            pictures[name] = _picture(store, store.load(report.model, Flow))
        except SlimError as error:
            remarks.append(f"no trajectories of {name}: {error}")
    return pictures, remarks


@torch.no_grad()
def _picture(store: Store, flow: Flow) -> bytes:
    """A row for each sample, from noise on the left to the image on the right."""
    sampler = open_sampler(store, flow, EulerSpec(steps=STEPS), torch.device("cpu"))
    index = torch.arange(SAMPLES)
    label = sampler.labels(0, index)
    x = sampler.flow.enter(sampler.noise(0, index))
    start = sampler.flow.t_start
    size = (1.0 - start) / STEPS
    kept: list[Tensor] = [x]
    for step in range(STEPS):
        t = torch.full((SAMPLES,), start + step * size)
        x = x + size * sampler.flow.velocity(x, t, label)
        if (step + 1) % (STEPS // (TIMES - 1)) == 0:
            kept.append(x)
    rows = torch.stack(kept, dim=1).flatten(0, 1)
    out = io.BytesIO()
    Image.fromarray(tiled(rows, TIMES)).save(out, "PNG")
    return out.getvalue()
