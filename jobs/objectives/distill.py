"""Flow-guided distillation: SlimFlow's second stage."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.captions import shown_classes
from slimctl.jobs.training.critic_term import CriticTerm
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, ScoreNetwork, Share, note
from slimctl.jobs.training.perceptual import open_distance
from slimctl.jobs.training.sources import ImageSource, PairSource
from slimctl.jobs.training.spec import marginal
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import (
    one_step_error,
    one_step_loss,
    two_step_error,
    two_step_target,
)

if TYPE_CHECKING:
    from slimctl.jobs.kinds.distill import Distill

SAMPLES = 1024
"""Pairs that the guide is measured on."""
BATCH = 16
"""Pairs measured at once: a minute for a large network on one CPU thread."""


@dataclass
class Distillation(Objective):
    """D(x0 + v(x0, 0), x1) on pairs, and the same with the guide's second half-step as target.

    The fresh noise of the second term is that of the critic, too, where there is one.

    The student is evaluated once a step, on the pairs and the fresh noise together, because a batch
    of 2 B costs less than two of B.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 11-13, with time turned round.
    """

    spec: "Distill"
    handles: Handles
    _report: dict[str, Tensor] = field(default_factory=dict)
    _term: CriticTerm | None = None

    def prepare(self, share: Share) -> None:
        spec, store, pairs = self.spec, self.handles.store, self.handles[self.spec.pairs]
        labels = spec.labels(self.handles, pairs.conditions)
        made = spec.made(self.handles)
        self._share, self._t_start = share, made.t_start
        self._distance = open_distance(spec.distance, store, self.handles.artifact_id, share.device)
        self._flip = pairs.flip_valid if spec.flip is None else spec.flip
        self._source = PairSource(store, pairs, share.device, labels if spec.part_pairs else None)
        self._draws = Draws(spec.seed or 0, share, pairs.image)
        self._guide = None
        self._counts = marginal(pairs, labels)
        fresh = share.of(spec.two_step_batch or spec.batch_size)
        self._fresh = Draws(spec.seed or 0, fresh, pairs.image)
        if spec.guide is not None and spec.two_step_weight > 0:
            guide = self.handles[spec.guide]
            self._guide = open_flow(store, guide, share.device, mesh=share.mesh)
        if spec.critic is not None and spec.data is not None:
            conditional, data = pairs.image.classes > 0, self.handles[spec.data]
            shown = shown_classes(store, made, labels)
            real = ImageSource(store, data, share.device, shown, conditional=conditional)
            seed, image, flip = spec.seed or 0, pairs.image, self._flip
            self._term = CriticTerm(spec.critic, real, image, fresh, seed, flip=flip)
            self._judged = Draws(derive_seed(seed, "image critic"), fresh, image)

    def image_critic(self) -> ScoreNetwork | None:
        return None if self._term is None else self._term.companion(self.spec.learning_rate)

    def image_critic_loss(
        self, critic: nn.Module, network: nn.Module, step: int, update: int, part: Part = WHOLE
    ) -> Tensor:
        assert self._term is not None
        draws = self._judged.of(part)
        x0, label = self._noise_of(draws, self._term.number(step, update))
        with torch.no_grad():
            start = torch.full((len(x0),), self._t_start, device=x0.device)
            x = x0 + network(x0, start, label).float()
        loss = self._term.loss(critic, x, label, step, update, part)
        note(self._report, "image_critic_loss", loss, part)
        return loss

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
        start = torch.full((len(both),), self._t_start, device=both.device)
        u: Tensor = network(both, start, labels).float()
        total = u.new_zeros(())
        if self.spec.pair_weight > 0:
            pair = draws.weighted(one_step_loss(u[: len(x0)], x0, x1, self._distance).mean())
            note(self._report, "pair_loss", pair, part)
            total = total + self.spec.pair_weight * pair
        if fresh is not None and self._guide is not None:
            two_step = self._two_step(u[len(x0) :], fresh, fresh_label, step, part)
            note(self._report, "two_step_loss", two_step, part)
            total = total + self.spec.two_step_weight * two_step
        if fresh is not None and self._term is not None and self.spec.critic is not None:
            made = fresh + u[len(x0) :]
            deceived = self._term.deception(made, fresh_label, step, part)
            note(self._report, "image_deception_loss", deceived, part)
            total = total + self.spec.critic.weight * deceived
        return total

    def report(self) -> dict[str, Tensor]:
        return self._report

    def final_errors(self, averaged: Callable[[], nn.Module]) -> Iterator[dict[str, Tensor]]:
        """How far the guide and the student are from the first 1024 pairs.

        Two numbers without a verdict: which is larger does not tell whether the two-step term
        helped. On digits it helped a student whose own samples were nearer to the pairs
        (benchmarks/README.md).
        """
        if self._guide is None:
            return
        share, pairs = self._share, self.handles[self.spec.pairs]
        one_step = NetworkFlow(averaged(), pairs.image, self._t_start)
        source = self._source
        if not self.spec.part_pairs:
            labels = self.spec.labels(self.handles, pairs.conditions)
            source = PairSource(self.handles.store, pairs, share.device, labels)
        numbers = torch.arange(min(SAMPLES, source.count), device=share.device)
        pieces = torch.split(numbers, BATCH)
        if share.mesh is not None:
            pieces = pieces[: len(pieces) // share.world * share.world]
        for index in pieces[share.rank :: share.world]:
            x0, x1, label = source.batch(index)
            s = torch.full((len(index),), sum(self.spec.two_step_times) / 2, device=share.device)
            yield {
                "student_one_step_error": one_step_error(one_step, x0, x1, label),
                "guide_two_step_error": two_step_error(self._guide, x0, x1, s, label),
            }

    def _fresh_of(self, step: int, part: Part) -> tuple[Tensor | None, Tensor | None]:
        if self._guide is None and self._term is None:
            return None, None
        return self._noise_of(self._fresh.of(part), step)

    def _noise_of(self, draws: Draws, number: int) -> tuple[Tensor, Tensor | None]:
        """Fresh noise, and labels that the student serves."""
        noise = draws.noise(number, Stream.GUIDED_NOISE)
        if not self._counts:
            return noise, None
        return noise, draws.labels(number, Stream.GUIDED_LABEL, self._counts)

    def _two_step(
        self, u: Tensor, x0: Tensor, label: Tensor | None, step: int, part: Part
    ) -> Tensor:
        assert self._guide is not None
        draws = self._fresh.of(part)
        low, high = self.spec.two_step_times
        s = low + (high - low) * draws.uniform(step, Stream.GUIDED_TIME)
        target = two_step_target(self._guide, u.detach(), x0, s, label)
        return draws.weighted(one_step_loss(u, x0, target, self._distance).mean())
