"""Flow-guided distillation: SlimFlow's second stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.context import Handles, JobContext
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share, note
from slimctl.jobs.training.perceptual import open_distance
from slimctl.jobs.training.sources import PairSource
from slimctl.jobs.training.spec import restricted
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import (
    one_step_error,
    one_step_loss,
    two_step_error,
    two_step_target,
)
from slimctl.models.networks.registry import parse_network

if TYPE_CHECKING:
    from slimctl.jobs.kinds.distill import Distill

SAMPLES = 1024
"""Pairs that the guide is measured on."""
BATCH = 128
"""Pairs measured at once: bounds the memory of large networks."""


@dataclass
class Distillation(Objective):
    """D(x0 + v(x0, 0), x1) on pairs, and the same with the guide's second half-step as target.

    The student is evaluated once a step, on the pairs and the fresh noise together, because a batch
    of 2 B costs less than two of B.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 11-13, with time turned round.
    """

    spec: "Distill"
    handles: Handles
    _report: dict[str, Tensor] = field(default_factory=dict)

    def prepare(self, share: Share) -> None:
        spec, store, pairs = self.spec, self.handles.store, self.handles[self.spec.pairs]
        labels = spec.labels(self.handles, pairs.image.classes)
        self._distance = open_distance(spec.distance, store, self.handles.artifact_id, share.device)
        self._flip = pairs.flip_valid if spec.flip is None else spec.flip
        self._source = PairSource(store, pairs, share.device, labels if spec.part_pairs else None)
        self._draws = Draws(spec.seed or 0, share, pairs.image)
        self._guide = None
        if spec.guide is not None and spec.two_step_weight > 0:
            self._guide = open_flow(store, self.handles[spec.guide], share.device)
            size = spec.two_step_batch or spec.batch_size
            self._fresh = Draws(spec.seed or 0, share.of(size), pairs.image)
            self._counts = restricted(pairs.label_counts, labels)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x0, x1, label = self._source.of_step(draws, step, flip=self._flip)
        fresh, fresh_label = self._fresh_of(step, part)
        if self.spec.pair_weight == 0:
            x0, x1, label = x0[:0], x1[:0], None if label is None else label[:0]
        both = torch.cat((x0, fresh)) if fresh is not None else x0
        labels = label
        if label is not None and fresh_label is not None:
            labels = torch.cat((label, fresh_label))
        start = torch.zeros(len(both), device=both.device)
        u: Tensor = network(both, start, labels).float()
        total = u.new_zeros(())
        if self.spec.pair_weight > 0:
            pair = draws.weighted(one_step_loss(u[: len(x0)], x0, x1, self._distance).mean())
            note(self._report, "pair_loss", pair, part)
            total = total + self.spec.pair_weight * pair
        if fresh is not None:
            two_step = self._two_step(u[len(x0) :], fresh, fresh_label, step, part)
            note(self._report, "two_step_loss", two_step, part)
            total = total + self.spec.two_step_weight * two_step
        return total

    def report(self) -> dict[str, Tensor]:
        return self._report

    def _fresh_of(self, step: int, part: Part) -> tuple[Tensor | None, Tensor | None]:
        if self._guide is None:
            return None, None
        draws = self._fresh.of(part)
        noise = draws.noise(step, Stream.GUIDED_NOISE)
        if not self._counts:
            return noise, None
        return noise, draws.labels(step, Stream.GUIDED_LABEL, self._counts)

    def _two_step(
        self, u: Tensor, x0: Tensor, label: Tensor | None, step: int, part: Part
    ) -> Tensor:
        assert self._guide is not None
        draws = self._fresh.of(part)
        low, high = self.spec.two_step_times
        s = low + (high - low) * draws.uniform(step, Stream.GUIDED_TIME)
        target = two_step_target(self._guide, u.detach(), x0, s, label)
        return draws.weighted(one_step_loss(u, x0, target, self._distance).mean())


@torch.no_grad()
def measure_guide(
    context: JobContext,
    spec: "Distill",
    guide: Flow,
    student: Generator,
    weights: Mapping[str, Tensor],
) -> None:
    """Notes how far the guide and the student are from the first 1024 pairs.

    Two numbers without a verdict: which is larger does not tell whether the two-step term helped.
    On digits it helped a student whose own samples were nearer to the pairs (benchmarks/README.md).
    """
    device = torch.device(context.device)
    pairs = context.input(spec.pairs)
    labels = spec.labels(context.handles, pairs.image.classes)
    source = PairSource(context.store, pairs, device, labels)
    network = parse_network(student.network).build(student.image).eval()
    network.load_state_dict(weights)
    one_step = NetworkFlow(network.to(device), student.image)
    two_steps = open_flow(context.store, guide, device)
    errors = []
    for index in torch.split(torch.arange(min(SAMPLES, source.count), device=device), BATCH):
        x0, x1, label = source.batch(index)
        s = torch.full((len(index),), sum(spec.two_step_times) / 2, device=device)
        mine = one_step_error(one_step, x0, x1, label)
        errors.append(torch.stack((mine, two_step_error(two_steps, x0, x1, s, label))))
    own, guided = torch.cat(errors, dim=1).mean(dim=1).tolist()
    context.engine |= {"student_one_step_error": own, "guide_two_step_error": guided}
    context.log(f"error against the pairs: student 1 step {own:.4g}, guide 2 steps {guided:.4g}")
