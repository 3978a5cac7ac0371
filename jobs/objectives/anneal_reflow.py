"""Flow matching on a teacher's pairs with annealed noise: SlimFlow's first stage."""

from dataclasses import dataclass

from torch import Tensor, nn

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.objective import Objective, Share
from slimctl.jobs.training.pair_source import PairSource
from slimctl.models.flows.losses import flow_matching_loss
from slimctl.models.flows.path import annealed_noise
from slimctl.models.flows.spec import AnnealingSchedule, TimeDensity


@dataclass
class AnnealedReflow(Objective):
    """Reflow whose pairs' noise is mixed with a share beta(step) of fresh noise.

    Args:
        store: where the pairs are.
        pairs: noise-image pairs.
        seed: of the job.
        annealing: beta by optimizer step.
        time: density of the flow times.
        flip: whether to mirror noise and image of every other pair together.
        labels: pairs of other labels are left out; None = all pairs.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 9.
    """

    store: Store
    pairs: PairSet
    seed: int
    annealing: AnnealingSchedule
    time: TimeDensity
    flip: bool
    labels: tuple[int, ...] | None = None

    def prepare(self, share: Share) -> None:
        self._source = PairSource(self.store, self.pairs, share.device, self.labels)
        self._draws = Draws(self.seed, share, self.pairs.image)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        x0, x1, label = self._source.batch(self._draws.samples(step, self._source.count))
        self._source.read_ahead(self._draws.samples(step + 1, self._source.count))
        if self.flip:
            flips = self._draws.flips(step)
            x0, x1 = mirror(x0, flips), mirror(x1, flips)
        beta = self.annealing.beta(step)
        if beta > 0:
            x0 = annealed_noise(x0, self._draws.noise(step), beta)
        t = self._draws.times(step, self.time)
        return flow_matching_loss(network, x0, x1, t, label).mean()
