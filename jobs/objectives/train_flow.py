"""Flow matching on real images: the teacher's training."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.training.captions import Captions
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.sources import ImageSource
from slimctl.models.conditions import NO_TEXT
from slimctl.models.counter_random import Stream
from slimctl.models.losses import flow_matching_loss

if TYPE_CHECKING:
    from slimctl.jobs.kinds.train_flow import TrainFlow


@dataclass
class FlowMatching(Objective):
    """Mean squared error of the velocity on straight lines from fresh noise to images.

    Source:
        Liu et al., arXiv 2209.03003, eq. 1.
    """

    spec: "TrainFlow"
    handles: Handles

    def prepare(self, share: Share) -> None:
        store, data = self.handles.store, self.handles[self.spec.data]
        conditional, labels, self._captions = self.spec.conditional, None, None
        self._null_class = data.image.classes
        if self.spec.prompts is not None:
            self._captions = Captions(store, self.handles[self.spec.prompts])
            conditional, labels, self._null_class = True, self._captions.classes, NO_TEXT
        self._data = ImageSource(store, data, share.device, labels, conditional=conditional)
        self._flip = data.flip_valid if self.spec.flip is None else self.spec.flip
        self._draws = Draws(self.spec.seed or 0, share, data.image)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        x1, label = self._data.of_step(draws, step, flip=self._flip)
        if self._captions is not None and label is not None:
            label = self._captions.of(label, draws, step)
        if label is not None and self.spec.label_dropout:
            dropped = draws.uniform(step, Stream.LABEL_DROPOUT) < self.spec.label_dropout
            label = label.where(~dropped, self._null_class)
        x0, t = draws.noise(step), draws.times(step, self.spec.time)
        return draws.weighted(flow_matching_loss(network, x0, x1, t, label).mean())
