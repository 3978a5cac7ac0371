"""What can be chosen about a flow's training: time density, annealing schedule, image distance.

Only descriptions and plain arithmetic: pipelines read this file without importing torch. The
tensor side is in `time_density`, `annealing` and `distance`.
"""

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from slimctl.models.spec import ADDED, Spec


def _low_below_high(density: Any) -> Any:
    if density.low >= density.high:
        low, high = density.low, density.high
        raise ValueError(f"low is {low} and high is {high}: low must be below high")
    return density


class UniformTime(Spec):
    """Training times spread evenly over [low, high]."""

    kind: Literal["uniform"] = "uniform"
    low: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Smallest flow time, 0 = pure noise."""
    high: float = Field(default=1.0, gt=0.0, le=1.0)
    """Largest flow time, 1 = image."""

    _ordered = model_validator(mode="after")(_low_below_high)


class UShapedTime(Spec):
    """Training times drawn more often near 0 and 1: p(t) ~ exp(a t) + exp(a (1 - t)).

    Source: Lee et al., arXiv 2405.20320, section 4, with a = 4; the density is symmetric, so the
    direction of time does not matter.
    """

    kind: Literal["u_shaped"] = "u_shaped"
    a: float = Field(default=4.0, gt=0.0, le=50.0)
    """Steepness: the ends are cosh(a / 2) times as likely as the middle."""


class KarrasTime(Spec):
    """Training times at evenly drawn shares of EDM's noise levels, sigma = (1 - t) / t.

    sigma = (a + s (b - a))^7 with a = 0.002^(1/7), b = 80^(1/7) and s uniform in [low, high]: the
    default is sigma 0.0032..72 with quartiles 0.19, 2.5 and 16.6.

    Source: Yin et al. (DMD2), arXiv 2405.14867, its code: steps 20 to 980 of 1000; the levels are
    those of Karras et al., arXiv 2206.00364, equation 5.
    """

    kind: Literal["karras"] = "karras"
    low: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Smallest share, 0 = sigma 0.002."""
    high: float = Field(default=0.98, gt=0.0, le=1.0)
    """Largest share, 1 = sigma 80."""

    _ordered = model_validator(mode="after")(_low_below_high)


class LogNormalTime(Spec):
    """Training times whose noise level sigma = (1 - t) / t has ln sigma ~ N(mean, std^2).

    It is also a normal logit of 1 - t.

    Source: Karras et al., arXiv 2206.00364, table 1: mean -1.2, std 1.2.
    """

    kind: Literal["log_normal"] = "log_normal"
    mean: float = Field(default=-1.2, ge=-10.0, le=10.0)
    """Of ln sigma."""
    std: float = Field(default=1.2, gt=0.0, le=10.0)
    """Of ln sigma."""


TimeDensity = Annotated[
    UniformTime | UShapedTime | KarrasTime | LogNormalTime, Field(discriminator="kind")
]
"""Density of the flow time t in training."""


class _Annealing(Spec):
    """Share of fresh noise as a function of the optimizer step."""

    @abstractmethod
    def beta(self, step: int) -> float:
        """Share of fresh noise at optimizer step `step` >= 0, in [0, 1]."""


class LinearAnnealing(_Annealing):
    """beta = max(0, 1 - step / length).

    Source: SlimFlow, arXiv 2407.12718, table 4: its 1 - min(1, k / 6K) with K = 50 000 is
    length 300 000 of its 800 000 steps; its default and best.
    """

    kind: Literal["linear"] = "linear"
    length: int = Field(ge=1)
    """Optimizer steps until beta is 0."""

    def beta(self, step: int) -> float:
        return max(0.0, 1.0 - step / self.length)


class CosineAnnealing(_Annealing):
    """beta = (1 + cos(pi min(1, step / length))) / 2.

    Source: SlimFlow, table 4: its k / 2K with K = 50 000 is length 100 000.
    """

    kind: Literal["cosine"] = "cosine"
    length: int = Field(ge=1)
    """Optimizer steps until beta is 0."""

    def beta(self, step: int) -> float:
        return (1.0 + math.cos(math.pi * min(1.0, step / self.length))) / 2.0


class ExponentialAnnealing(_Annealing):
    """beta = exp(-step / length); it never quite reaches 0.

    Source: SlimFlow, table 4: its exp(-k / K) with K = 50 000 is length 50 000.
    """

    kind: Literal["exponential"] = "exponential"
    length: int = Field(ge=1)
    """Optimizer steps in which beta falls to 1 / e."""

    def beta(self, step: int) -> float:
        return math.exp(-step / self.length)


class ConstantAnnealing(_Annealing):
    """beta = value at every step: 0 is plain reflow, 1 is rectified flow on the pairs' images."""

    kind: Literal["constant"] = "constant"
    value: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of fresh noise, 0..1."""

    def beta(self, step: int) -> float:
        del step  # the same at every step
        return self.value


AnnealingSchedule = Annotated[
    LinearAnnealing | CosineAnnealing | ExponentialAnnealing | ConstantAnnealing,
    Field(discriminator="kind"),
]
"""How the share of fresh noise falls during training."""


class L2Distance(Spec):
    """Mean squared difference of pixels."""

    kind: Literal["l2"] = "l2"


class HuberDistance(Spec):
    """Pseudo-Huber: sqrt(||x - y||^2 + c^2) - c, the norm over all pixels of an image.

    Quadratic far below c, linear far above.

    Source: Song and Dhariwal, arXiv 2310.14189, section 3.3; for rectified flows arXiv 2405.20320.
    """

    kind: Literal["huber"] = "huber"
    c: float | None = Field(default=None, gt=0.0)
    """Where it turns from quadratic to linear, in units of ||x - y||; None is
    0.00054 sqrt(number of pixel values)."""


class GuidanceSpec(Spec):
    """How far a flow is driven towards its label: v = v' + scale (v - v').

    Source: Ho and Salimans, arXiv 2207.12598 (classifier-free guidance); Karras et al., arXiv
    2406.02507 (autoguidance); Kynkäänniemi et al., arXiv 2404.07724 (the interval).
    """

    scale: float = Field(ge=0.0, le=1000.0)
    """1 = not at all, above 1 = further than the flow itself goes."""
    interval: tuple[float, float] | None = None
    """Flow times (first, last) between which it is driven, 0 = noise, 1 = image; null = all."""

    @model_validator(mode="after")
    def _rising(self) -> "GuidanceSpec":
        if self.interval is not None and not 0.0 <= self.interval[0] < self.interval[1] <= 1.0:
            low, high = self.interval
            raise ValueError(f"interval is {low:g} to {high:g}: 0 <= first < last <= 1 is needed")
        return self


class AdversarialSpec(Spec):
    """Judging images by a head on the fake network's bottleneck, beside distribution matching.

    Source: Song et al., Multi-student distillation, arXiv 2410.23274; Zhou et al. (SiDA), arXiv
    2410.14919.
    """

    head: Annotated[Literal["convolution", "mean"], ADDED] = "convolution"
    """What judges: a small convolution on the bottleneck, or the mean over its channels, one
    judgement a place, which has no weights (SiDA's; its generator_weight is about 1e-4 here)."""
    critic_weight: float = Field(default=1e-2, gt=0)
    """Weight of the head's loss beside the fake network's."""
    generator_weight: float = Field(default=3e-3, gt=0)
    """Weight of being taken for real beside the matching loss."""


class DMD2Objective(Spec):
    """Along the difference of the two flows' expected images, without a gradient through them.

    Source: Yin et al., arXiv 2405.14867 (DMD2).
    """

    kind: Literal["dmd2"] = "dmd2"


class SiDObjective(Spec):
    """Score identity distillation: the gradient goes through the teacher and the score network.

    Left out, `time` is Karras's below share 0.8, `fake_time` log-normal, `fake_weight` edm,
    `fake_updates` 1 and `adam_betas` [0, 0.999].

    Source: Zhou et al., arXiv 2404.04057 (SiD).
    """

    kind: Literal["sid"] = "sid"
    alpha: float = Field(default=1.0, ge=0.0, le=2.0)
    """Weight of the squared difference of the two flows, which has a bias of its own: 1.2 and 1 are
    the papers' for images; 0.5 is the squared difference's true derivative, halved."""


class UIDObjective(Spec):
    """SiD at alpha 1/2 with velocities in place of images: |u_real - v|^2 - |u_fake - v|^2.

    Left out, `time` is uniform on [0, 1] and `adam_betas` [0, 0.999].

    Source: RealUID without real data (its alpha = beta = 1).
    """

    kind: Literal["uid"] = "uid"


class FDistillObjective(Spec):
    """DMD2's step, weighted by how real the critic finds a sample: needs `adversarial`.

    With r = p_real / p_student at a noised sample, read off the critic, a sample weighs

        kl  r      js  r / (1 + r)      hellinger  sqrt(r)

    where DMD2, the reverse KL, weighs all alike. Each weight is the sample's own: the published
    code also divides by means over the batch, which would depend on how a batch is split.
    Left out, `time` is Karras's and `fake_weight` edm.

    Source: Xu et al., arXiv 2502.15681 (f-distill), table 1.
    """

    kind: Literal["f_distill"] = "f_distill"
    divergence: Literal["kl", "js", "hellinger"] = "js"
    """Divergence of the student's distribution from the teacher's that is made small."""


MatchingObjective = Annotated[
    DMD2Objective | SiDObjective | UIDObjective | FDistillObjective, Field(discriminator="kind")
]
"""What a student of distribution matching minimises."""
