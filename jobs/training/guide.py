"""How far the guide of a two-step term is from the pairs, beside the student that it taught.

Two numbers without a verdict: which is larger does not tell whether the term helped. On digits it
helped a student whose own samples were nearer to the pairs (benchmarks/README.md).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow, Generator, PairSet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.pair_source import PairSource
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import one_step_error, two_step_error
from slimctl.models.networks.registry import parse_network

SAMPLES = 1024
BATCH = 128
"""Pairs measured at once: bounds the memory of large networks."""


@torch.no_grad()
def measure_guide(
    context: JobContext,
    pairs: PairSet,
    guide: Flow,
    student: Generator,
    weights: Mapping[str, Tensor],
    times: tuple[float, float],
    labels: tuple[int, ...] | None = None,
) -> None:
    """Measures both errors on the first 1024 pairs and notes them.

    Args:
        context: of the distillation job; its engine record gets the two errors.
        pairs: what both are compared with.
        guide: flow of the two-step term.
        student: the distilled generator.
        weights: its weights.
        times: range of the time at which the guide takes over; the middle is used.
        labels: pairs of other labels are left out; None = all pairs.
    """
    device = torch.device(context.device)
    source = PairSource(context.store, pairs, device, labels)
    network = parse_network(student.network).build(student.image).eval()
    network.load_state_dict(weights)
    one_step = NetworkFlow(network.to(device), student.image)
    two_steps = open_flow(context.store, guide, device)
    errors = []
    for index in torch.split(torch.arange(min(SAMPLES, source.count), device=device), BATCH):
        x0, x1, label = source.batch(index)
        s = torch.full((len(index),), sum(times) / 2, device=device)
        mine = one_step_error(one_step, x0, x1, label)
        errors.append(torch.stack((mine, two_step_error(two_steps, x0, x1, s, label))))
    own, guided = torch.cat(errors, dim=1).mean(dim=1).tolist()
    context.engine |= {"student_one_step_error": own, "guide_two_step_error": guided}
    context.log(f"error against the pairs: student 1 step {own:.4g}, guide 2 steps {guided:.4g}")
