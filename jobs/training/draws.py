"""The random numbers of a training step, as functions of (seed, step, position in the batch).

Single numbers are drawn for a block of steps at once: for a batch alone nearly all of the time
would go into starting operations, and moving the data order would wait for the device every step.
"""

import copy
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from slimctl.jobs.training.objective import WHOLE, Part, Share
from slimctl.models import counter_random
from slimctl.models.conditions import Marginal, draw_labels
from slimctl.models.counter_random import Stream
from slimctl.models.flows.spec import TimeDensity
from slimctl.models.flows.time_density import quantile
from slimctl.models.spec import ImageShape
from slimctl.models.transfer import to_device

BLOCK_STEPS = 64


@dataclass
class Draws:
    """Draws for one worker's share of each batch, or for a part of it."""

    seed: int
    share: Share
    image: ImageShape
    part: Part = WHOLE
    """Of the share, what numbers are drawn for."""

    def __post_init__(self) -> None:
        self._positions = self.share.positions()
        self._places = torch.arange(self.share.first, self.share.first + self.share.count)
        self._shape = (self.image.channels, self.image.size, self.image.size)
        self._blocks: dict[Hashable, tuple[int, Tensor]] = {}

    def of(self, part: Part) -> "Draws":
        """The same draws for the samples of a part only."""
        piece = copy.copy(self)  # what is drawn for a block of steps is kept together
        piece.part = part
        return piece

    def weighted(self, mean: Tensor) -> Tensor:
        """What a mean over the samples drawn for adds to the mean over the share."""
        if self.part == WHOLE:
            return mean
        rows = self.part.rows(self.share.count)
        share: float = (rows.stop - rows.start) / self.share.count
        return mean * share

    def following(self, step: int) -> tuple["Draws", int]:
        """What is drawn after these: the next part of the step, or the first of the next step."""
        number = self.part.number + 1
        if number < self.part.of:
            return self.of(Part(number, self.part.of)), step
        return self.of(Part(0, self.part.of)), step + 1

    def samples(self, step: int, count: int, device: torch.device | None = None) -> Tensor:
        """Indices of the training samples of a step: each of `count` once per epoch.

        They are drawn on the CPU, and sent to `device`; None = that of the share.
        """
        device = device or self.share.device

        def draw(positions: Tensor, steps: Tensor) -> Tensor:
            places = steps * self.share.batch_size + positions
            return to_device(counter_random.data_order(self.seed, places, count), device)

        return self._of_block(step, ("samples", count, device), draw, self._places)

    def noise(self, step: int, stream: int = Stream.NOISE) -> Tensor:
        """Fresh standard normal noise, float32 (share, C, H, W)."""
        positions = self._positions[self.part.rows(self.share.count)]
        return counter_random.normal(self.seed, stream, positions, self._shape, step)

    def times(self, step: int, density: TimeDensity) -> Tensor:
        """Flow times, float32 (share,)."""
        return quantile(density, self.uniform(step, Stream.TIME))

    def uniform(self, step: int, stream: int) -> Tensor:
        """Uniform numbers in [0, 1), float32 (share,)."""

        def draw(positions: Tensor, steps: Tensor) -> Tensor:
            return counter_random.uniform(self.seed, stream, positions, (), steps)

        return self._of_block(step, ("uniform", stream), draw)

    def numbers(self, step: int, stream: int, count: int) -> Tensor:
        """So many uniform numbers in [0, 1) for each sample, float32 (share, count)."""
        positions = self._positions[self.part.rows(self.share.count)]
        return counter_random.uniform(self.seed, stream, positions, (count,), step)

    def labels(self, step: int, stream: int, marginal: Marginal) -> Tensor:
        """Labels drawn in proportion to counts, or some prompts equally often, int64 (share,)."""

        def draw(positions: Tensor, steps: Tensor) -> Tensor:
            drawn = draw_labels(marginal, self.seed, stream, positions, steps)
            assert drawn is not None, "there are labels"
            return drawn

        return self._of_block(step, ("labels", stream, marginal), draw)

    def flips(self, step: int) -> Tensor:
        """Whether each sample is mirrored, bool (share, 1, 1, 1)."""
        return (self.uniform(step, Stream.FLIP) < 0.5).view(-1, 1, 1, 1)

    def _of_block(
        self,
        step: int,
        name: Hashable,
        draw: Callable[[Tensor, Tensor], Tensor],
        positions: Tensor | None = None,
    ) -> Tensor:
        """One number per sample at a step, drawn with those of its whole block of steps."""
        positions = self._positions if positions is None else positions
        block, row = divmod(step, BLOCK_STEPS)
        kept = self._blocks.get(name)
        if kept is None or kept[0] != block:
            steps = block * BLOCK_STEPS + torch.arange(BLOCK_STEPS, device=positions.device)
            numbers = draw(positions.repeat(BLOCK_STEPS), steps.repeat_interleave(self.share.count))
            kept = block, numbers.view(BLOCK_STEPS, self.share.count)
            self._blocks[name] = kept
        return kept[1][row, self.part.rows(self.share.count)]


def same_masks(device: torch.device) -> AbstractContextManager[None]:
    """Leaves the random numbers of dropout as they were: the next pass has the masks of this."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def mirror(images: Tensor, flips: Tensor) -> Tensor:
    """Mirrors left and right where `flips` is true; images (B, C, H, W), flips (B, 1, 1, 1)."""
    return torch.where(flips, images.flip(-1), images)
