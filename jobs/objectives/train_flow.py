"""Flow matching on real images: the teacher's training."""

from dataclasses import dataclass

from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.objective import Objective, Share
from slimctl.models.flows.losses import flow_matching_loss
from slimctl.models.flows.spec import TimeDensity
from slimctl.models.pixels import to_float


@dataclass
class FlowMatching(Objective):
    """Mean squared error of the velocity on straight lines from fresh noise to images.

    Args:
        store: where the data is.
        data: images.
        seed: of the job.
        conditional: whether the network is told the label.
        time: density of the flow times.
        flip: whether to mirror every other image.

    Source:
        Liu et al., arXiv 2209.03003, eq. 1.
    """

    store: Store
    data: Dataset
    seed: int
    conditional: bool
    time: TimeDensity
    flip: bool

    def prepare(self, share: Share) -> None:
        images, labels = load_dataset_tensors(self.store, self.data)
        self._images = images.to(share.device)
        self._labels = labels.to(share.device) if self.conditional and labels is not None else None
        self._draws = Draws(self.seed, share, self.data.image)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        index = self._draws.samples(step, self.data.count)
        x1 = to_float(self._images[index])
        if self.flip:
            x1 = mirror(x1, self._draws.flips(step))
        label = None if self._labels is None else self._labels[index]
        x0 = self._draws.noise(step)
        t = self._draws.times(step, self.time)
        return flow_matching_loss(network, x0, x1, t, label).mean()
