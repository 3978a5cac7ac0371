"""A critic of images beside a student in training: what each of the two minimises."""

import torch
from torch import Tensor, nn

from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.training.critic import CriticSpec
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import Part, ScoreNetwork, Share
from slimctl.jobs.training.sources import ImageSource
from slimctl.models.augmentation import NUMBERS, augmented
from slimctl.models.counter_random import Stream
from slimctl.models.flows.path import interpolate
from slimctl.models.losses import through_images
from slimctl.models.relativistic import calibration_loss, relativistic_loss, squared_slope
from slimctl.models.spec import ImageShape


class CriticTerm:
    """The critic with its real images, on one worker's share of the batch.

    Args:
        spec: of the critic.
        real: real images, with labels where the student has classes.
        image: their shape; of a student of prompts without classes, which the critic does not see.
        share: of the generated images that are judged at once.
        seed: of the job.
        flip: whether a mirrored image is as good as the original.
    """

    def __init__(
        self,
        spec: CriticSpec,
        real: ImageSource,
        image: ImageShape,
        share: Share,
        seed: int,
        *,
        flip: bool,
    ) -> None:
        torch.manual_seed(derive_seed(seed, "image critic"))
        self.network: nn.Module = spec.network.build(image).to(share.device)
        self._spec, self._real, self._flip = spec, real, flip
        self._labelled = image.classes > 0
        self._own = Draws(derive_seed(seed, "critic's images"), share, image)
        self._student = Draws(derive_seed(seed, "critic's view of the student"), share, image)

    def companion(self, learning_rate: float) -> ScoreNetwork:
        """The critic as the loop trains it, beside a student of that learning rate."""
        spec = self._spec
        rate = (spec.learning_rate or learning_rate) / learning_rate
        return ScoreNetwork(self.network, spec.updates, rate, spec.adam_betas, whole=True)

    @property
    def sees_noise(self) -> bool:
        """Whether it judges images with noise, too."""
        return self._spec.time is not None

    def number(self, step: int, update: int) -> int:
        """Of an update of the critic before a step of the student."""
        return step * self._spec.updates + update

    def loss(
        self, critic: nn.Module, x: Tensor, label: Tensor | None, step: int, update: int, part: Part
    ) -> Tensor:
        """What the critic minimises on generated images (B, C, H, W), as a part adds to it."""
        draws, number = self._own.of(part), self.number(step, update)
        (made, real), t, labels = self._seen(draws, number, step, x, label)
        point = torch.cat((made, real)).requires_grad_()
        said, offset = critic(point, torch.cat((t, t)), labels).unbind(dim=1)
        slope = squared_slope(said, point)
        below, above = said.chunk(2)
        each = relativistic_loss(above, below) + calibration_loss(above, below, offset[: len(t)])
        each = each + self._spec.penalty / 2 * (slope[: len(t)] + slope[len(t) :])
        return draws.weighted(each.mean())

    def deception(self, x: Tensor, label: Tensor | None, step: int, part: Part) -> Tensor:
        """What the student minimises: the gradient goes to its images, not to the critic."""
        draws = self._student.of(part)

        def loss_of(x: Tensor) -> Tensor:
            (made, real), t, labels = self._seen(draws, step, step, x, label)
            said = self.network(torch.cat((made, real)), torch.cat((t, t)), labels)
            above, below = said[:, 0].chunk(2)
            return relativistic_loss(above, below).mean()

        return draws.weighted(through_images(x, loss_of))

    @torch.no_grad()
    def log_ratio(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The log of p_real / p_student of images with noise, (B,), as far as the critic knows."""
        said, offset = self.network(xt, t, label if self._labelled else None).unbind(dim=1)
        difference: Tensor = said - offset
        return difference

    def _seen(
        self, draws: Draws, number: int, step: int, x: Tensor, label: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor | None]:
        """Generated and real images as the critic sees them, their times, and labels of both.

        The two of a pair have the same time: the critic need not compare noise levels.
        """
        y, real_label = self._real.of_step(draws, number, flip=self._flip)
        numbers = draws.numbers(number, Stream.AUGMENTATION, 2 * NUMBERS).chunk(2, dim=1)
        p = self._spec.probability(step)
        made, real = (
            augmented(images, each, p, flip=self._flip)
            for images, each in zip((x, y), numbers, strict=True)
        )
        t = torch.ones(len(x), device=x.device)
        if self._spec.time is not None:
            clean = draws.uniform(number, Stream.SUBSET) < self._spec.clean_share
            t = torch.where(clean, t, draws.times(number, self._spec.time))
            made = interpolate(draws.noise(number), made, t)
            real = interpolate(draws.noise(number, Stream.GUIDED_NOISE), real, t)
        if not self._labelled or label is None or real_label is None:
            return (made, real), t, None
        return (made, real), t, torch.cat((label, real_label))
