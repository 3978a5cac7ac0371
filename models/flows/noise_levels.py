"""What a network is fed at a noise level sigma: how much of the point, and which time.

The other way round from the papers, which go from the time to the noise; computed in float64, as a
table of 1000 steps spans five powers of ten.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from slimctl.models.flows.parameterisation import (
    CosineVPSchedule,
    DiscreteVPSchedule,
    LinearVPSchedule,
    RectifiedSchedule,
    Schedule,
    VESchedule,
)
from slimctl.models.shapes import Float, Tensor


class NoiseLevels(nn.Module, ABC):
    """The network's input at a noise level. Abstract.

    A point x1 + sigma x0 is multiplied by `scale(sigma)`, and the network is given `time(sigma)`.
    """

    @abstractmethod
    def scale(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Share a of the image in the network's input."""

    @abstractmethod
    def time(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What the network is given."""


class _Rectified(NoiseLevels):
    def scale(self, sigma: Tensor) -> Tensor:
        return 1.0 / (1.0 + sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return 1.0 / (1.0 + sigma)


class _VE(NoiseLevels):
    def scale(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return (0.5 * sigma).log()


class _VP(NoiseLevels):
    """Points of variance 1, if the images have it."""

    def scale(self, sigma: Tensor) -> Tensor:
        return (1.0 + sigma.square()).rsqrt()


class _LinearVP(_VP):
    def __init__(self, spec: LinearVPSchedule) -> None:
        super().__init__()
        self._spec = spec

    def time(self, sigma: Tensor) -> Tensor:
        low, rise = self._spec.beta_min, self._spec.beta_max - self._spec.beta_min
        integral = sigma.square().log1p()
        # The positive root of rise s^2 / 2 + low s = integral, without cancellation at small s.
        s = 2.0 * integral / (low + (low**2 + 2.0 * rise * integral).sqrt())
        return self._spec.time_scale * s


class _CosineVP(_VP):
    def __init__(self, spec: CosineVPSchedule) -> None:
        super().__init__()
        self._spec = spec

    def time(self, sigma: Tensor) -> Tensor:
        quarter = math.pi / 2.0 / (1.0 + self._spec.offset)
        cosine = math.cos(self._spec.offset * quarter) * self.scale(sigma)
        tangent = ((1.0 - cosine) * (1.0 + cosine)).sqrt() / cosine
        # In float32, 6e-8 of the angle off: onnxruntime has neither acos nor atan of doubles.
        angle = tangent.float().atan().to(cosine.dtype)
        return self._spec.time_scale * (angle / quarter - self._spec.offset)


class _DiscreteVP(_VP):
    def __init__(self, spec: DiscreteVPSchedule) -> None:
        super().__init__()
        self._nearest = spec.between == "nearest"
        self.levels: Tensor
        table = torch.tensor(spec.sigmas(), dtype=torch.float64)
        self.register_buffer("levels", table, persistent=False)

    def time(self, sigma: Tensor) -> Tensor:
        sigma = sigma.to(self.levels.dtype)
        above = (self.levels < sigma[:, None]).sum(1).clamp(1, len(self.levels) - 1)
        low, high = self.levels[above - 1], self.levels[above]
        if self._nearest:
            return (above - 1).to(sigma.dtype) + (high - sigma < sigma - low)
        share = (sigma / low).log() / (high / low).log()
        return (above - 1 + share).clamp(0.0, len(self.levels) - 1.0)


def noise_levels(schedule: Schedule) -> NoiseLevels:
    """The tensor side of a schedule.

    Raises:
        ValueError: it is EDM's, whose scale is part of its preconditioning (`EDMFlow`).
    """
    if isinstance(schedule, RectifiedSchedule):
        return _Rectified()
    if isinstance(schedule, VESchedule):
        return _VE()
    if isinstance(schedule, LinearVPSchedule):
        return _LinearVP(schedule)
    if isinstance(schedule, CosineVPSchedule):
        return _CosineVP(schedule)
    if isinstance(schedule, DiscreteVPSchedule):
        return _DiscreteVP(schedule)
    raise ValueError("EDM's schedule belongs to its preconditioning: use prediction edm")
