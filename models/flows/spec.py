"""What can be chosen about a flow's training: time density, annealing schedule, image distance.

Only descriptions and plain arithmetic: pipelines read this file without importing torch. The
tensor side is in `time_density`, `annealing` and `distance`.
"""

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from slimctl.models.spec import Spec


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


TimeDensity = Annotated[UniformTime | UShapedTime | KarrasTime, Field(discriminator="kind")]
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


class AdversarialSpec(Spec):
    """Judging images by a head on the fake network's bottleneck, beside distribution matching.

    Source: Song et al., Multi-student distillation, arXiv 2410.23274.
    """

    critic_weight: float = Field(default=1e-2, gt=0)
    """Weight of the head's loss beside the fake network's."""
    generator_weight: float = Field(default=3e-3, gt=0)
    """Weight of being taken for real beside the matching loss."""
