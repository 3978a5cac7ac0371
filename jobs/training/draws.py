"""The random numbers of a training step, as functions of (seed, step, position in the batch)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.training.objective import Share
from models import counter_random
from models.counter_random import Stream
from models.flows.spec import TimeDensity
from models.flows.time_density import quantile
from models.spec import ImageShape


@dataclass
class Draws:
    """Draws for one worker's share of each batch.

    Args:
        seed: of the job.
        share: the worker's part of the batch.
        image: shape of the images.
    """

    seed: int
    share: Share
    image: ImageShape

    def __post_init__(self) -> None:
        self._positions = self.share.positions()
        self._shape = (self.image.channels, self.image.size, self.image.size)

    def samples(self, step: int, count: int) -> Tensor:
        """Indices of the training samples of a step: each of `count` once per epoch."""
        first = step * self.share.batch_size + self.share.first
        places = torch.arange(first, first + self.share.count)
        return counter_random.data_order(self.seed, places, count).to(self.share.device)

    def noise(self, step: int, stream: int = Stream.NOISE) -> Tensor:
        """Fresh standard normal noise, float32 (share, C, H, W)."""
        return counter_random.normal(self.seed, stream, self._positions, self._shape, step)

    def times(self, step: int, density: TimeDensity) -> Tensor:
        """Flow times, float32 (share,)."""
        return quantile(density, self.uniform(step, Stream.TIME))

    def uniform(self, step: int, stream: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 (share,)."""
        return counter_random.uniform(self.seed, stream, self._positions, (), step)

    def flips(self, step: int) -> Tensor:
        """Whether each sample is mirrored, bool (share, 1, 1, 1)."""
        return (self.uniform(step, Stream.FLIP) < 0.5).view(-1, 1, 1, 1)


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors left and right where `flips` is true; images (B, C, H, W), flips (B, 1, 1, 1)."""
    return torch.where(flips, images.flip(-1), images)
