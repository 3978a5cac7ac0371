"""Distribution matching: a one-step student follows the difference of two flows.

One flow is the teacher, the other a companion of the student's training, which learns the flow of
what the student makes at the moment.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Dataset, Flow, PairSet
from slimctl.jobs.base.seeds import derive_seed
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.part_images import load_part
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.distances import ImageDistance
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.judge import Judge
from slimctl.jobs.training.objective import Companion, Objective, Share
from slimctl.jobs.training.pair_source import PairSource
from slimctl.jobs.training.perceptual import open_distance
from slimctl.models.counter_random import Stream
from slimctl.models.critics import Critic, critic_loss, deception_loss
from slimctl.models.engine import choose_engine
from slimctl.models.flows.losses import matching_gradient, matching_loss, velocity_error
from slimctl.models.flows.path import interpolate
from slimctl.models.flows.spec import AdversarialSpec, TimeDensity
from slimctl.models.flows.time_density import whole_range
from slimctl.models.pixels import to_float
from slimctl.models.precision import Precision
from slimctl.models.spec import ImageShape


@dataclass(frozen=True)
class PairTerm:
    """Regression on the teacher's pairs, of all labels whatever the student serves."""

    pairs: PairSet
    weight: float
    batch_size: int
    distance: ImageDistance
    artifact_id: str
    """Of the result, whose work folder has the weights of the distance."""


@dataclass
class DistributionMatching(Objective):
    """The matching loss of the student, with pair regression or an adversarial term if asked for.

    Labels and real images are those of the student's part; pairs are never filtered, since that
    costs coverage of the modes.

    Args:
        store: where everything is.
        teacher: the flow of the wanted distribution.
        fake: flow that the companion starts as; of the teacher's size.
        data: real images for the adversarial term.
        image: shape of the images, with the classes.
        labels: labels that the student serves; None = all.
        label_counts: label marginal of the student; () if unconditional.
        t_start: flow time at which the student takes its step.
        seed: of the job.
        time: density of the flow times at which the flows are compared; the companion trains on
            its whole range.
        fake_updates: the companion's updates before each step of the student.
        fake_rate: the companion's learning rate over the student's.
        pairs: the pair term; None leaves it out.
        adversarial: weights of the adversarial term; None leaves it out.
        flip: whether to mirror pairs and real images at random.
        judge: scores the student.
        judge_every: steps between two scores.
        precision: of the products of the teacher and the fake network; auto = as in training.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274, after DMD (arXiv 2311.18828) and
        DMD2 (arXiv 2405.14867), with time turned round (here t = 0 is noise).
    """

    store: Store
    teacher: Flow
    fake: Flow
    data: Dataset
    image: ImageShape
    labels: tuple[int, ...] | None
    label_counts: tuple[int, ...]
    t_start: float
    seed: int
    time: TimeDensity
    fake_updates: int
    fake_rate: float
    pairs: PairTerm | None
    adversarial: AdversarialSpec | None
    flip: bool
    judge: Judge
    judge_every: int
    precision: Literal["auto"] | Precision = "auto"
    _report: dict[str, Tensor] = field(default_factory=dict)

    def prepare(self, share: Share) -> None:
        precision = choose_engine(share.device, "training", self.precision).precision
        self._teacher = open_flow(self.store, self.teacher, share.device, precision)
        torch.manual_seed(derive_seed(self.seed, "head"))
        fake = open_flow(self.store, self.fake, share.device, precision)
        critic = Critic(fake, judges=self.adversarial is not None)
        self._critic = critic.to(share.device).requires_grad_()
        self._draws = Draws(self.seed, share, self.image)
        self._fake_draws = Draws(derive_seed(self.seed, "fake"), share, self.image)
        if self.pairs is not None:
            self._source = PairSource(self.store, self.pairs.pairs, share.device)
            self._pair_draws = Draws(self.seed, share.of(self.pairs.batch_size), self.image)
            term = self.pairs
            self._distance = open_distance(
                term.distance, self.store, term.artifact_id, share.device
            )
        if self.adversarial is not None:
            images, label = load_part(
                self.store, self.data, self.labels, conditional=self.image.classes > 0
            )
            self._real = images.to(share.device)
            self._real_label = None if label is None else label.to(share.device)
            self._real_draws = Draws(derive_seed(self.seed, "real"), share, self.image)
        if share.first == 0:
            self.judge.prepare(share.device)

    def companion(self) -> Companion:
        return Companion(self._critic, self.fake_updates, self.fake_rate)

    def score_every(self) -> int:
        return self.judge_every

    def score(self, network: nn.Module) -> float:
        return self.judge(network)

    def companion_loss(
        self, companion: nn.Module, network: nn.Module, step: int, update: int
    ) -> Tensor:
        number = step * self.fake_updates + update
        x, label = self._generate(network, number)
        x0, t = (
            self._fake_draws.noise(number),
            self._fake_draws.times(number, whole_range(self.time)),
        )
        points = interpolate(x0, x, t)
        if self.adversarial is None:
            velocity, _ = companion(points, t, label)
            return self._flow_loss(velocity, x0, x)
        real_points, real_t, real_label = self._real_of(number)
        labels = None if label is None or real_label is None else torch.cat((label, real_label))
        both = torch.cat((points, real_points)), torch.cat((t, real_t))
        velocity, logit = companion(*both, labels)
        judged = critic_loss(real=logit[len(x) :], fake=logit[: len(x)])
        self._report["critic_loss"] = judged.detach()
        flow = self._flow_loss(velocity[: len(x)], x0, x)
        return flow + self.adversarial.critic_weight * judged

    def loss(self, network: nn.Module, step: int) -> Tensor:
        fresh, label = self._fresh(self._draws, step)
        x0, x1, labels = self._with_pairs(fresh, label, step)
        start = torch.full((len(x0),), self.t_start, device=x0.device)
        made = x0 + network(x0, start, labels).float()
        x = made[: len(fresh)]
        noise, t = self._draws.noise(step), self._draws.times(step, self.time)
        real, fake = self._teacher.velocity, self._critic.velocity
        gradient = matching_gradient(real, fake, x.detach(), noise, t, label)
        total = matching_loss(x, gradient).mean()
        self._report["matching_loss"] = total.detach()
        if self.pairs is not None and x1 is not None:
            pair = self._distance(made[len(fresh) :], x1).mean()
            self._report["pair_loss"] = pair.detach()
            total = total + self.pairs.weight * pair
        if self.adversarial is not None:
            deceived = self._deception(x, noise, t, label)
            self._report["deception_loss"] = deceived.detach()
            total = total + self.adversarial.generator_weight * deceived
        return total

    def report(self) -> dict[str, Tensor]:
        return self._report

    def _flow_loss(self, velocity: Tensor, x0: Tensor, x: Tensor) -> Tensor:
        loss: Tensor = velocity_error(velocity.float(), x0, x).mean()
        self._report["fake_loss"] = loss.detach()
        return loss

    def _fresh(self, draws: Draws, number: int) -> tuple[Tensor, Tensor | None]:
        """Noise for the student, and labels that it serves."""
        x0 = draws.noise(number, Stream.GUIDED_NOISE)
        if not self.label_counts:
            return x0, None
        return x0, draws.labels(number, Stream.GUIDED_LABEL, self.label_counts)

    @torch.no_grad()
    def _generate(self, network: nn.Module, number: int) -> tuple[Tensor, Tensor | None]:
        """What the student makes for an update of its companion."""
        x0, label = self._fresh(self._fake_draws, number)
        start = torch.full((len(x0),), self.t_start, device=x0.device)
        return x0 + network(x0, start, label).float(), label

    def _with_pairs(
        self, fresh: Tensor, label: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The fresh noise with that of the pairs behind it, the pairs' images, all labels."""
        if self.pairs is None:
            return fresh, None, label
        x0, x1, pair_label = self._source.batch(self._pair_draws.samples(step, self._source.count))
        if self.flip:
            flips = self._pair_draws.flips(step)
            x0, x1 = mirror(x0, flips), mirror(x1, flips)
        if label is not None and pair_label is not None:
            label = torch.cat((label, pair_label))
        return torch.cat((fresh, x0)), x1, label

    def _real_of(self, number: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Real images of the student's part with noise, at their times, and their labels."""
        draws = self._real_draws
        index = draws.samples(number, len(self._real))
        x1 = to_float(self._real[index])
        if self.flip:
            x1 = mirror(x1, draws.flips(number))
        t = draws.times(number, whole_range(self.time))
        label = None if self._real_label is None else self._real_label[index]
        return interpolate(draws.noise(number), x1, t), t, label

    def _deception(self, x: Tensor, noise: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The loss of being taken for real, whose gradient goes to x and not to the critic."""
        point = x.detach().requires_grad_()
        _, logit = self._critic(interpolate(noise, point, t), t, label)
        loss = deception_loss(logit)
        (gradient,) = torch.autograd.grad(loss, point)
        return loss.detach() + ((x - x.detach()) * gradient).sum()
