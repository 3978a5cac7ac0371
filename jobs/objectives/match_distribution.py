"""Distribution matching: a one-step student follows the difference of two flows.

One flow is the teacher, the other a score network of the student's training, which learns the
flow of what the student makes at the moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import LatentSet
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.storage.flows import open_flow, open_guided
from slimctl.jobs.storage.texts import marginal_of
from slimctl.jobs.training.captions import Captions, shown_classes
from slimctl.jobs.training.critic_term import CriticTerm
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.evaluator import Evaluator
from slimctl.jobs.training.objective import WHOLE, Objective, Part, ScoreNetwork, Share, note
from slimctl.jobs.training.perceptual import open_distance
from slimctl.jobs.training.sources import ImageSource, PairSource
from slimctl.models.counter_random import Stream
from slimctl.models.critics import Critic
from slimctl.models.engine import choose_engine, set_compiled
from slimctl.models.flows.path import expand_time, interpolate
from slimctl.models.flows.spec import DMD2Objective, SiDObjective, UIDObjective
from slimctl.models.flows.time_density import whole_range
from slimctl.models.losses import (
    critic_loss,
    deception_loss,
    divergence_weight,
    edm_weight,
    matching_gradient,
    matching_loss,
    score_identity_loss,
    through_images,
    velocity_error,
    velocity_identity_loss,
)

if TYPE_CHECKING:
    from slimctl.jobs.kinds.match_distribution import MatchDistribution


@dataclass
class DistributionMatching(Objective):
    """The matching loss of the student, with pair regression or an adversarial term if asked for.

    Labels and real images are those of the student's part; pairs are never filtered, since that
    costs coverage of the modes.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274, after DMD (arXiv 2311.18828) and
        DMD2 (arXiv 2405.14867), with time turned round (here t = 0 is noise).
    """

    spec: "MatchDistribution"
    handles: Handles
    _report: dict[str, Tensor] = field(default_factory=dict)
    _term: CriticTerm | None = None

    def prepare(self, share: Share) -> None:
        spec, store = self.spec, self.handles.store
        teacher = spec.prompted(self.handles, self.handles[spec.teacher])
        seed, image = spec.seed or 0, teacher.image
        self._student = spec.made(self.handles)
        self._t_start, self._counts = self._student.t_start, marginal_of(store, self._student)
        self._flip = teacher.flip_valid if spec.flip is None else spec.flip
        precision = choose_engine(share.device, "training", spec.precision).precision
        guidance = spec.guided(self.handles)
        self._teacher = open_guided(store, teacher, guidance, share.device, precision, share.mesh)
        torch.manual_seed(derive_seed(seed, "head"))
        first = spec.prompted(self.handles, self.handles[spec.fake or spec.teacher])
        fake = open_flow(store, first, share.device, precision)
        critic = Critic(fake, spec.adversarial.head if spec.adversarial else None)
        self._critic = critic.to(share.device).requires_grad_()
        self._draws = Draws(seed, share, image)
        self._fake_draws = Draws(derive_seed(seed, "fake"), share, image)
        self._fake_time = spec.fake_time or whole_range(spec.time)
        self._judged_draws = Draws(derive_seed(seed, "judged"), share, image)
        self._judged_fake_draws = Draws(derive_seed(seed, "judged fake"), share, image)
        if spec.pairs is not None:
            self._pairs = PairSource(store, self.handles[spec.pairs], share.device)
            size = spec.pair_batch or spec.batch_size
            self._pair_draws = Draws(seed, share.of(size), image)
            self._distance = open_distance(
                spec.distance, store, self.handles.artifact_id, share.device
            )
        numbers, data = spec.labels(self.handles, teacher.conditions), self.handles[spec.data]
        labels = shown_classes(store, self._student, numbers)
        self._captions = None
        if spec.adversarial is not None or spec.critic is not None:
            if spec.adversarial is not None and teacher.prompts is not None:
                self._captions = Captions(store, teacher.prompts, numbers)
                labels = self._captions.classes
            conditional = image.classes > 0 or self._captions is not None
            self._real = ImageSource(store, data, share.device, labels, conditional=conditional)
            self._real_draws = Draws(derive_seed(seed, "real"), share, image)
        if spec.critic is not None:
            self._term = CriticTerm(spec.critic, self._real, image, share, seed, flip=self._flip)
            self._judged_by_term = Draws(derive_seed(seed, "image critic"), share, image)
        features = self.handles[spec.judge] if spec.judge else None
        images = data.dataset if isinstance(data, LatentSet) else data
        self._evaluator = Evaluator(
            store, images, features, labels, self._counts, image, self._t_start,
            spec.score_samples, seed, autoencoder=teacher.autoencoder,
        )  # fmt: skip
        self._evaluator.prepare(share.device, share.rank, share.world)

    def score_network(self) -> ScoreNetwork:
        spec = self.spec
        rate = (spec.fake_learning_rate or spec.learning_rate) / spec.learning_rate
        return ScoreNetwork(
            self._critic, spec.updates(), rate, spec.fake_adam_betas, spec.fake_adam_epsilon
        )

    def image_critic(self) -> ScoreNetwork | None:
        return None if self._term is None else self._term.companion(self.spec.learning_rate)

    def score_every(self) -> int:
        return self.spec.score_every

    def score(self, network: nn.Module) -> float | None:
        return self._evaluator(network)

    def score_network_loss(
        self,
        score_network: nn.Module,
        network: nn.Module,
        step: int,
        update: int,
        part: Part = WHOLE,
    ) -> Tensor:
        number = step * self.spec.updates() + update
        draws = self._fake_draws.of(part)
        x, label = self._generate(network, draws, number)
        x0, t = draws.noise(number), draws.times(number, self._fake_time)
        points = interpolate(x0, x, t)
        if self.spec.adversarial is None:
            velocity, _ = score_network(points, t, label)
            return self._flow_loss(velocity, x0, x, t, part)
        batches, count = [(points, t, label)], len(x)
        if self.spec.adversarial_time is not None:
            judged = self._judged_fake_draws.of(part)
            judged_t = judged.times(number, self.spec.adversarial_time)
            batches.append((interpolate(judged.noise(number), x, judged_t), judged_t, label))
        batches.append(self._real_of(number, part))
        velocity, logit = score_network(*_together(batches))
        made, real = logit[-2 * count : -count], logit[-count:]
        judgement = draws.weighted(critic_loss(real=real, fake=made))
        note(self._report, "critic_loss", judgement, part)
        flow = self._flow_loss(velocity[:count], x0, x, t, part)
        return flow + self.spec.adversarial.critic_weight * judgement

    def image_critic_loss(
        self, critic: nn.Module, network: nn.Module, step: int, update: int, part: Part = WHOLE
    ) -> Tensor:
        assert self._term is not None
        draws = self._judged_by_term.of(part)
        x, label = self._generate(network, draws, self._term.number(step, update))
        loss = self._term.loss(critic, x, label, step, update, part)
        note(self._report, "image_critic_loss", loss, part)
        return loss

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._draws.of(part)
        fresh, label = self._fresh(draws, step)
        x0, x1, labels = self._with_pairs(fresh, label, step, part)
        start = torch.full((len(x0),), self._t_start, device=x0.device)
        made = x0 + network(x0, start, labels).float()
        x = made[: len(fresh)]
        noise, t = draws.noise(step), draws.times(step, self.spec.time)
        total = draws.weighted(self._matched(x, noise, t, label))
        note(self._report, "matching_loss", total, part)
        if x1 is not None:
            mean = self._distance(made[len(fresh) :], x1).mean()
            pair = self._pair_draws.of(part).weighted(mean)
            note(self._report, "pair_loss", pair, part)
            total = total + self.spec.pair_weight * pair
        if self.spec.adversarial is not None:
            if self.spec.adversarial_time is not None:
                judged = self._judged_draws.of(part)
                noise, t = judged.noise(step), judged.times(step, self.spec.adversarial_time)
            deceived = draws.weighted(self._deception(x, noise, t, label))
            note(self._report, "deception_loss", deceived, part)
            total = total + self.spec.adversarial.generator_weight * deceived
        if self._term is not None and self.spec.critic is not None:
            deceived = self._term.deception(x, label, step, part)
            note(self._report, "image_deception_loss", deceived, part)
            total = total + self.spec.critic.weight * deceived
        return total

    def set_compiled(self, compiled: bool) -> None:
        """All but a critic with a head: that looks into its network as it runs."""
        super().set_compiled(compiled)
        if self.spec.adversarial is not None:
            set_compiled(self._critic, compiled=False)

    def report(self) -> dict[str, Tensor]:
        return self._report

    def _matched(self, x: Tensor, noise: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The mean loss of the student's images, by its objective."""
        real, fake, objective = self._teacher.velocity, self._critic.velocity, self.spec.objective
        if isinstance(objective, SiDObjective):
            alpha = objective.alpha
            return through_images(
                x, lambda x: score_identity_loss(real, fake, x, noise, t, label, alpha=alpha).mean()
            )
        if isinstance(objective, UIDObjective):
            return through_images(
                x, lambda x: velocity_identity_loss(real, fake, x, noise, t, label).mean()
            )
        if isinstance(objective, DMD2Objective):
            gradient = matching_gradient(real, fake, x.detach(), noise, t, label)
            return matching_loss(x, gradient).mean()
        xt = interpolate(noise, x.detach(), t)
        with torch.no_grad():
            known, logit = self._critic(xt, t, label)
        gradient = matching_gradient(real, lambda *_: known, x.detach(), noise, t, label)
        if self._term is not None and self._term.sees_noise:
            logit = self._term.log_ratio(xt, t, label)
        if logit.dim() > 1:
            logit = logit.mean(dim=1)
        weight = expand_time(divergence_weight(logit, objective.divergence))
        return matching_loss(x, weight * gradient).mean()

    def _flow_loss(self, velocity: Tensor, x0: Tensor, x: Tensor, t: Tensor, part: Part) -> Tensor:
        """What the score network's velocity of the student's images costs."""
        error = velocity_error(velocity.float(), x0, x)
        if self.spec.fake_weight == "edm":
            error = edm_weight(t) * error
        loss = self._fake_draws.of(part).weighted(error.mean())
        note(self._report, "fake_loss", loss, part)
        return loss

    def _fresh(self, draws: Draws, number: int) -> tuple[Tensor, Tensor | None]:
        """Noise for the student, and labels that it serves."""
        x0 = draws.noise(number, Stream.GUIDED_NOISE)
        if not self._counts:
            return x0, None
        return x0, draws.labels(number, Stream.GUIDED_LABEL, self._counts)

    @torch.no_grad()
    def _generate(
        self, network: nn.Module, draws: Draws, number: int
    ) -> tuple[Tensor, Tensor | None]:
        """What the student makes for an update of its score network."""
        x0, label = self._fresh(draws, number)
        start = torch.full((len(x0),), self._t_start, device=x0.device)
        return x0 + network(x0, start, label).float(), label

    def _with_pairs(
        self, fresh: Tensor, label: Tensor | None, step: int, part: Part
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The fresh noise with that of the pairs behind it, the pairs' images, all labels."""
        if self.spec.pairs is None:
            return fresh, None, label
        draws = self._pair_draws.of(part)
        x0, x1, pair_label = self._pairs.of_step(draws, step, flip=self._flip)
        if label is not None and pair_label is not None:
            label = torch.cat((label, pair_label))
        return torch.cat((fresh, x0)), x1, label

    def _real_of(self, number: int, part: Part) -> tuple[Tensor, Tensor, Tensor | None]:
        """Real images of the student's part with noise, at their times, and their labels."""
        draws = self._real_draws.of(part)
        x1, label = self._real.of_step(draws, number, flip=self._flip)
        if self._captions is not None and label is not None:
            label = self._captions.of(label, draws, number)
        t = draws.times(number, self.spec.adversarial_time or self._fake_time)
        return interpolate(draws.noise(number), x1, t), t, label

    def _deception(self, x: Tensor, noise: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """The loss of being taken for real, whose gradient goes to x and not to the critic."""
        return through_images(
            x, lambda x: deception_loss(self._critic(interpolate(noise, x, t), t, label)[1])
        )


def _together(
    batches: Sequence[tuple[Tensor, Tensor, Tensor | None]],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points, times and labels of several batches as one."""
    points, times, labels = zip(*batches, strict=True)
    known = [label for label in labels if label is not None]
    return torch.cat(points), torch.cat(times), torch.cat(known) if known else None
