"""Flow matching on a teacher's pairs with annealed noise: SlimFlow's first stage."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.sources import PairSource
from slimctl.models.flows.path import annealed_noise
from slimctl.models.flows.student import StudentFlow
from slimctl.models.losses import flow_matching_loss

if TYPE_CHECKING:
    from slimctl.jobs.kinds.anneal_reflow import AnnealReflow


@dataclass
class AnnealedReflow(Objective):
    """Reflow whose pairs' noise is mixed with a share beta(step) of fresh noise.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 9.
    """

    spec: "AnnealReflow"
    handles: Handles

    def prepare(self, share: Share) -> None:
        spec, pairs = self.spec, self.handles[self.spec.pairs]
        labels = spec.labels(self.handles, pairs.conditions) if spec.part_pairs else None
        self._source = PairSource(self.handles.store, pairs, share.device, labels)
        self._flip = pairs.flip_valid if spec.flip is None else spec.flip
        self._annealing = spec.schedule()
        self._draws = Draws(spec.seed or 0, share, pairs.image)
        how = spec.predicts_here(self.handles)
        self._student = StudentFlow(how, pairs.image, share.device)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x0, x1, label = self._source.of_step(draws, step, flip=self._flip)
        beta = self._annealing.beta(step)
        if beta > 0:
            x0 = annealed_noise(x0, draws.noise(step), beta)
        t = draws.times(step, self.spec.time)
        each = flow_matching_loss(self._student.of(network), x0, x1, t, label)
        return draws.weighted(self._student.in_units(each, t).mean())
