"""Reconstruction and divergence: the loss of an autoencoder on a data set's images."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.sources import ImageSource

if TYPE_CHECKING:
    from slimctl.jobs.kinds.train_autoencoder import TrainAutoencoder


@dataclass
class Reconstruction(Objective):
    """The loss of `AutoencoderLoss`, with fresh noise for each code."""

    spec: "TrainAutoencoder"
    handles: Handles

    def prepare(self, share: Share) -> None:
        spec, data = self.spec, self.handles[self.spec.data]
        self._data = ImageSource(self.handles.store, data, share.device, None, conditional=False)
        self._flip = data.flip_valid if spec.flip is None else spec.flip
        seed = spec.seed or 0
        self._draws = Draws(seed, share, data.image)
        self._codes = Draws(seed, share, spec.autoencoder().latents(data.image))

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        images, _ = self._data.of_step(draws, step, flip=self._flip)
        each: Tensor = network(images, self._codes.of(part).noise(step))
        return draws.weighted(each.mean())
