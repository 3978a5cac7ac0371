"""Flow-guided distillation: SlimFlow's second stage."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Flow, PairSet
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.distances import ImageDistance
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.objective import Objective, Share
from slimctl.jobs.training.pair_source import PairSource
from slimctl.jobs.training.perceptual import open_distance
from slimctl.models.counter_random import Stream
from slimctl.models.flows.losses import one_step_loss, two_step_target


@dataclass
class Distillation(Objective):
    """D(x0 + v(x0, 0), x1) on pairs, and the same with the guide's second half-step as target.

    The student is evaluated once a step, on the pairs and the fresh noise together.

    Args:
        store: where pairs and guide are.
        pairs: noise-image pairs of the teacher.
        guide: frozen flow of the two-step term; None leaves the term out.
        seed: of the job.
        pair_weight: weight of the pair term.
        two_step_weight: weight of the two-step term.
        two_step_batch: fresh noises of a global batch; splits over the workers as the pairs do.
        two_step_times: range of the time at which the guide takes over.
        distance: between images.
        flip: whether to mirror noise and image of every other pair together.
        label_counts: marginal of the labels of the fresh noise; () if unconditional.
        labels: pairs of other labels are left out; None = all pairs.
        artifact_id: of the job's result, whose work folder has the weights of the distance.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 11-13, with time turned round.
    """

    store: Store
    pairs: PairSet
    guide: Flow | None
    seed: int
    pair_weight: float
    two_step_weight: float
    two_step_batch: int
    two_step_times: tuple[float, float]
    distance: ImageDistance
    flip: bool
    label_counts: tuple[int, ...]
    labels: tuple[int, ...] | None = None
    artifact_id: str = ""
    _report: dict[str, Tensor] = field(default_factory=dict)

    def prepare(self, share: Share) -> None:
        self._distance = open_distance(self.distance, self.store, self.artifact_id, share.device)
        self._source = PairSource(self.store, self.pairs, share.device, self.labels)
        self._draws = Draws(self.seed, share, self.pairs.image)
        if self.guide is not None:
            self._guide = open_flow(self.store, self.guide, share.device)
            self._fresh = Draws(self.seed, share.of(self.two_step_batch), self.pairs.image)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        x0, x1, label = self._pairs_of(step)
        fresh, fresh_label = self._fresh_of(step)
        if self.pair_weight == 0:
            x0, x1, label = x0[:0], x1[:0], None if label is None else label[:0]
        both = torch.cat((x0, fresh)) if fresh is not None else x0
        labels = label
        if label is not None and fresh_label is not None:
            labels = torch.cat((label, fresh_label))
        start = torch.zeros(len(both), device=both.device)
        u: Tensor = network(both, start, labels).float()
        total = u.new_zeros(())
        if self.pair_weight > 0:
            pair = one_step_loss(u[: len(x0)], x0, x1, self._distance).mean()
            self._report["pair_loss"] = pair.detach()
            total = total + self.pair_weight * pair
        if fresh is not None:
            two_step = self._two_step(u[len(x0) :], fresh, fresh_label, step)
            self._report["two_step_loss"] = two_step.detach()
            total = total + self.two_step_weight * two_step
        return total

    def report(self) -> dict[str, Tensor]:
        return self._report

    def _pairs_of(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        x0, x1, label = self._source.batch(self._draws.samples(step, self._source.count))
        self._source.read_ahead(self._draws.samples(step + 1, self._source.count))
        if self.flip:
            flips = self._draws.flips(step)
            x0, x1 = mirror(x0, flips), mirror(x1, flips)
        return x0, x1, label

    def _fresh_of(self, step: int) -> tuple[Tensor | None, Tensor | None]:
        if self.guide is None:
            return None, None
        noise = self._fresh.noise(step, Stream.GUIDED_NOISE)
        if not self.label_counts:
            return noise, None
        return noise, self._fresh.labels(step, Stream.GUIDED_LABEL, self.label_counts)

    def _two_step(self, u: Tensor, x0: Tensor, label: Tensor | None, step: int) -> Tensor:
        low, high = self.two_step_times
        s = low + (high - low) * self._fresh.uniform(step, Stream.GUIDED_TIME)
        target = two_step_target(self._guide, u.detach(), x0, s, label)
        return one_step_loss(u, x0, target, self._distance).mean()
