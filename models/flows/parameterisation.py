"""What the network of a flow predicts and which noise it was trained with, without importing torch.

A point of any of these schedules is a x1 + b x0 with b / a = sigma, the noise level. Their points
differ in scale only, so each noise level stands for one time of ours, t = 1 / (1 + sigma). The
tensor side is in `noise_levels` and `diffusion`.
"""

import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from slimctl.models.spec import Spec

Prediction = Literal["velocity", "noise", "data", "v", "edm"]
"""velocity x1 - x0; noise x0; data x1; v = a x0 - b x1; edm: the F of EDM's preconditioning."""


class _Schedule(Spec):
    """Which multiple of the image a network is fed, and what it is given of the noise level."""

    @abstractmethod
    def sigma_range(self) -> tuple[float, float]:
        """Smallest and largest noise level that the network was trained on."""


class RectifiedSchedule(_Schedule):
    """The straight path (1 - t) x0 + t x1; the network is given t."""

    kind: Literal["rectified"] = "rectified"

    def sigma_range(self) -> tuple[float, float]:
        return 0.002, 1000.0


class EDMSchedule(_Schedule):
    """x1 + sigma x0, scaled to variance 1; the network is given ln(sigma) / 4.

    Source: Karras et al., arXiv 2206.00364, table 1.
    """

    kind: Literal["edm"] = "edm"

    def sigma_range(self) -> tuple[float, float]:
        return 0.002, 80.0


class VESchedule(_Schedule):
    """x1 + sigma x0, not scaled; the network is given ln(sigma / 2).

    Source: Song et al., arXiv 2011.13456, as in Karras et al., arXiv 2206.00364, table 1.
    """

    kind: Literal["ve"] = "ve"

    def sigma_range(self) -> tuple[float, float]:
        return 0.02, 100.0


class LinearVPSchedule(_Schedule):
    """Variance 1, a^2 = exp(-(beta_max - beta_min) s^2 / 2 - beta_min s) at the time s in [0, 1].

    The network is given time_scale s. s = 0 is the image: the time of the papers, not ours.

    Source: Song et al., arXiv 2011.13456, equation 33.
    """

    kind: Literal["vp_linear"] = "vp_linear"
    beta_min: float = Field(default=0.1, ge=0)
    """Rate of noise at s = 0."""
    beta_max: float = Field(default=20.0, gt=0)
    """Rate of noise at s = 1."""
    time_scale: float = Field(default=999.0, gt=0)
    """What s is multiplied by for the network."""
    epsilon: float = Field(default=1e-5, gt=0, lt=1)
    """Smallest s of the training."""

    @model_validator(mode="after")
    def _rising(self) -> "LinearVPSchedule":
        if self.beta_max <= self.beta_min:
            raise ValueError(f"beta_max {self.beta_max} must be above beta_min {self.beta_min}")
        return self

    def sigma_range(self) -> tuple[float, float]:
        return self._sigma(self.epsilon), self._sigma(1.0)

    def _sigma(self, s: float) -> float:
        integral = (self.beta_max - self.beta_min) * s * s / 2.0 + self.beta_min * s
        return math.sqrt(math.expm1(integral))


class CosineVPSchedule(_Schedule):
    """Variance 1, a = cos((s + c) / (1 + c) pi / 2) / cos(c / (1 + c) pi / 2) at s in [0, 1].

    The network is given time_scale s. s = 0 is the image.

    Source: Nichol and Dhariwal, arXiv 2102.09672, equation 17.
    """

    kind: Literal["vp_cosine"] = "vp_cosine"
    offset: float = Field(default=0.008, ge=0, lt=1)
    """The paper's c."""
    time_scale: float = Field(default=1.0, gt=0)
    """What s is multiplied by for the network."""
    epsilon: float = Field(default=1e-3, gt=0, lt=0.5)
    """Distance that s keeps from 0 and 1."""

    def sigma_range(self) -> tuple[float, float]:
        return self._sigma(self.epsilon), self._sigma(1.0 - self.epsilon)

    def _sigma(self, s: float) -> float:
        quarter = math.pi / 2.0 / (1.0 + self.offset)
        a = math.cos((s + self.offset) * quarter) / math.cos(self.offset * quarter)
        return math.sqrt(1.0 - a * a) / a


class DiscreteVPSchedule(_Schedule):
    """Variance 1 at the steps 0, 1, ... of a table: a_i^2 = (1 - beta_0) ... (1 - beta_i).

    The network is given the step. Between two steps it is given a broken number, linear in the
    logarithm of sigma (or the nearest step), so that a discrete table serves every time of ours.

    Source: Ho et al., arXiv 2006.11239 (linear); Rombach et al., arXiv 2112.10752 (linear in the
    square root); Nichol and Dhariwal, arXiv 2102.09672, equation 17 (cosine).
    """

    kind: Literal["vp_discrete"] = "vp_discrete"
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """How the rates of noise rise; `squaredcos_cap_v2` is the cosine schedule."""
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    """Rate of the first step; not of the cosine schedule."""
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    """Rate of the last step; not of the cosine schedule."""
    steps: int = Field(default=1000, ge=2, le=100_000)
    """Steps of the table."""
    zero_terminal: bool = False
    """Whether the table is stretched until its last step is pure noise (arXiv 2305.08891)."""
    between: Literal["log_sigma", "nearest"] = "log_sigma"
    """What the network is given between two steps."""

    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the steps, rising; a last one that is infinite is left out."""
        scales, squared = [], 1.0
        for beta in self._betas():
            squared *= 1.0 - beta
            scales.append(math.sqrt(squared))
        if self.zero_terminal:
            first, last = scales[0], scales[-1]
            scales = [(scale - last) * first / (first - last) for scale in scales]
        return tuple(math.sqrt(1.0 - a * a) / a for a in scales if a > 0.0)

    def _betas(self) -> list[float]:
        if self.betas == "squaredcos_cap_v2":
            return [min(1.0 - self._cosine(i + 1) / self._cosine(i), 0.999) for i in self._range()]
        power = 2.0 if self.betas == "scaled_linear" else 1.0
        low, high = self.beta_start ** (1.0 / power), self.beta_end ** (1.0 / power)
        return [(low + (high - low) * i / (self.steps - 1)) ** power for i in self._range()]

    def _range(self) -> range:
        return range(self.steps)

    def _cosine(self, step: int) -> float:
        return math.cos((step / self.steps + 0.008) / 1.008 * math.pi / 2.0) ** 2

    def sigma_range(self) -> tuple[float, float]:
        levels = self.sigmas()
        return levels[0], levels[-1]


Schedule = Annotated[
    RectifiedSchedule
    | EDMSchedule
    | VESchedule
    | LinearVPSchedule
    | CosineVPSchedule
    | DiscreteVPSchedule,
    Field(discriminator="kind"),
]
"""Noise that a network was trained with."""


class Parameterisation(Spec):
    """What a flow's network predicts, on which schedule, and where sampling starts."""

    prediction: Prediction = "velocity"
    """What the network predicts."""
    schedule: Schedule = RectifiedSchedule()
    """Noise that it was trained with; a velocity has the straight path, edm its own."""
    sigma_data: float = Field(default=0.5, gt=0)
    """Standard deviation of the images, for `edm` only."""
    sigma_min: float | None = Field(default=None, gt=0)
    """Smallest noise level that the network is asked for; null = the schedule's."""
    sigma_max: float | None = Field(default=None, gt=0)
    """Largest one, where sampling starts; null = the schedule's. A velocity has none."""
    t_start: float = Field(default=0.0, ge=0, lt=1)
    """Flow time at which sampling starts, 0 = pure noise; 1 / (1 + sigma_max) if not a velocity."""
    null_class: int | None = Field(default=None, ge=-1)
    """Label that the network knows beside its classes and that stands for none of them, -1 where
    it takes texts; null = it knows none, so that it cannot be guided."""

    @model_validator(mode="after")
    def _consistent(self) -> "Parameterisation":
        wanted = {"velocity": "rectified", "edm": "edm"}.get(self.prediction, self.schedule.kind)
        if self.schedule.kind != wanted or (self.schedule.kind == "edm") != (
            self.prediction == "edm"
        ):
            raise ValueError(
                f"prediction {self.prediction} does not go with the schedule {self.schedule.kind}; "
                "velocity goes with rectified, edm with edm, the others with what is left"
            )
        low, high = self.levels()
        if self.denoises and low >= high:
            raise ValueError(f"sigma_min {low:g} must be below sigma_max {high:g}")
        return self

    @property
    def denoises(self) -> bool:
        """Whether the flow has noise levels: it can denoise, and use EDM's sampler."""
        return self.prediction != "velocity"

    def levels(self) -> tuple[float, float]:
        """Smallest and largest noise level."""
        low, high = self.schedule.sigma_range()
        return self.sigma_min or low, self.sigma_max or high
