"""Flows whose network was trained to take noise off images, EDM's and others, and `make_flow`.

Noise is added to the image, x = x1 + sigma x0, where we mix, xt = (1 - t) x0 + t x1. The two are
the same point at another scale, xt = x / (1 + sigma), at t = 1 / (1 + sigma).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from slimctl.models.conditions import Condition
from slimctl.models.engine import without_engine
from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.flows.parameterisation import Parameterisation, Schedule
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Float, Tensor
from slimctl.models.spec import ImageShape


class DenoisingFlow(Flow):
    """A flow that also tells the expected image behind a noisy one. Abstract.

    sigma is held within [sigma_min, sigma_max], so that the velocity is finite at t = 0 and t = 1:
    beyond the two, xt is taken for a point at the nearest time that the network knows. Sampling
    starts at sigma_max.

    Attributes:
        network: what predicts.
        sigma_min: smallest noise level that the velocity asks the network for.
        sigma_max: largest one; t_start is 1 / (1 + sigma_max).
    """

    def __init__(
        self, network: nn.Module, image: ImageShape, sigma_min: float, sigma_max: float
    ) -> None:
        """Raises ValueError unless 0 < sigma_min < sigma_max."""
        if not 0.0 < sigma_min < sigma_max:
            raise ValueError(
                f"sigma_min is {sigma_min}, sigma_max {sigma_max}: 0 < sigma_min < sigma_max is "
                "needed"
            )
        super().__init__(image, t_start=1.0 / (1.0 + sigma_max))
        self.network = network
        self.text = getattr(without_engine(network), "texts", None)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """sigma_max x0 at our scale: there the image's share is what is left out."""
        return (1.0 - self.t_start) * x0

    def denoise(
        self,
        x: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        label: Condition = None,
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser D(x; sigma): the expected image behind x = image + sigma noise.

        Args:
            x: images with noise, not scaled.
            sigma: standard deviation of the noise, > 0; any level, not only those of the velocity.
            label: classes 0..classes-1; None for an unconditional flow.

        Raises:
            ValueError: labels are missing, not wanted or, on the CPU, outside the range.
        """
        self._check(x, label)
        return self._denoise(x, sigma, label)

    @abstractmethod
    def unit(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """By how much the velocity at t differs where the network's answer differs by 1."""

    @abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor, label: Condition) -> Tensor:
        """The denoiser with checked labels; shapes as in `denoise`."""

    def _level(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The noise level of a time, within the network's."""
        return ((1.0 - t) / t).clamp(self.sigma_min, self.sigma_max)

    def _call(self, x: Tensor, time: Tensor, label: Condition) -> Tensor:
        """The network's answer, computed in its own precision, whatever x's is."""
        weight = next(self.network.parameters(), x)
        answer: Tensor = self.network(x.to(weight.dtype), time.to(x.dtype), label)
        return answer.to(x.dtype)


class NoiseLevels(nn.Module, ABC):
    """The network's input at a noise level. Abstract.

    A point x1 + sigma x0 is multiplied by `scale(sigma)`, and the network is given `time(sigma)`.
    """

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self._spec = spec

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
    def time(self, sigma: Tensor) -> Tensor:
        low, rise = self._spec.beta_min, self._spec.beta_max - self._spec.beta_min
        integral = sigma.square().log1p()
        # The positive root of rise s^2 / 2 + low s = integral, without cancellation at small s.
        s = 2.0 * integral / (low + (low**2 + 2.0 * rise * integral).sqrt())
        time: Tensor = self._spec.time_scale * s
        return time


class _CosineVP(_VP):
    def time(self, sigma: Tensor) -> Tensor:
        quarter = math.pi / 2.0 / (1.0 + self._spec.offset)
        cosine = math.cos(self._spec.offset * quarter) * self.scale(sigma)
        tangent = ((1.0 - cosine) * (1.0 + cosine)).sqrt() / cosine
        # In float32, 6e-8 of the angle off: onnxruntime has neither acos nor atan of doubles.
        angle = tangent.float().atan().to(cosine.dtype)
        time: Tensor = self._spec.time_scale * (angle / quarter - self._spec.offset)
        return time


class _DiscreteVP(_VP):
    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
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


_LEVELS: Mapping[str, type[NoiseLevels]] = {
    "rectified": _Rectified,
    "ve": _VE,
    "vp_linear": _LinearVP,
    "vp_cosine": _CosineVP,
    "vp_discrete": _DiscreteVP,
}


def noise_levels(schedule: Schedule) -> NoiseLevels:
    """The tensor side of a schedule.

    Raises:
        ValueError: it is EDM's, whose scale is part of its preconditioning (`EDMFlow`).
    """
    if schedule.kind not in _LEVELS:
        raise ValueError("EDM's schedule belongs to its preconditioning: use prediction edm")
    return _LEVELS[schedule.kind](schedule)


class EDMFlow(DenoisingFlow):
    """A flow whose network F is called with c_in x and c_noise = ln(sigma) / 4. Final.

    With s = sigma_data, D(x; sigma) = c_skip x + c_out F(c_in x, c_noise, label),

        c_skip = s^2 / (sigma^2 + s^2)            c_in  = 1 / sqrt(sigma^2 + s^2)
        c_out  = sigma s / sqrt(sigma^2 + s^2)    sigma = (1 - t) / t,  x = xt / t
        v(xt, t) = (D - xt) / (1 - t)
                 = (1 + sigma) ((s^2 - sigma) xt / (sigma^2 + s^2) + s F / sqrt(sigma^2 + s^2))

    The last form has no difference of nearly equal numbers at either end.

    Source: Karras et al., Elucidating the design space of diffusion-based generative models
    (arXiv 2206.00364), table 1 and equation 7; translated to our time.
    """

    def __init__(
        self,
        network: nn.Module,
        image: ImageShape,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        """Wraps F, called as `network(c_in x, c_noise, label)`.

        sigma_data is the standard deviation of the images that the network was trained on, > 0.

        Raises:
            ValueError: the levels are out of order.
        """
        super().__init__(network, image, sigma_min, sigma_max)
        if sigma_data <= 0.0:
            raise ValueError(f"sigma_data is {sigma_data}: it must be above 0")
        self.sigma_data = sigma_data

    def unit(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        sigma = self._level(t)
        return (1.0 + sigma) * self.sigma_data * (sigma.square() + self.sigma_data**2).rsqrt()

    def _denoise(self, x: Tensor, sigma: Tensor, label: Condition) -> Tensor:
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        skip = self.sigma_data**2 / total
        scale = level * self.sigma_data * total.rsqrt()
        return skip * x + scale * self._answer(x, sigma, label)

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        sigma = self._level(t)
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        f = self._answer((1.0 + level) * xt, sigma, label)
        pull = (self.sigma_data**2 - level) / total
        return (1.0 + level) * (pull * xt + self.sigma_data * total.rsqrt() * f)

    def _answer(self, x: Tensor, sigma: Tensor, label: Condition) -> Tensor:
        """F(c_in x, c_noise, label)."""
        scaled = expand_time(sigma.square() + self.sigma_data**2).rsqrt() * x
        return self._call(scaled, sigma.log() / 4.0, label)


class _Mixture(NamedTuple):
    """Shares of the point and of the network's answer, each (b,)."""

    point: Tensor
    answer: Tensor

    def of(self, point: Tensor, answer: Tensor) -> Tensor:
        return expand_time(self.point) * point + expand_time(self.answer) * answer


class DiffusionFlow(DenoisingFlow):
    """A flow whose network o = o(a x, time(sigma), label) predicts noise, image or v. Final.

    With x = x1 + sigma x0 = (1 + sigma) xt and a = scale(sigma),

        noise  o = x0                   D = x - sigma o
        data   o = x1                   D = o
        v      o = a x0 - a sigma x1    D = (x - (sigma / a) o) / (1 + sigma^2)

    and the velocity v(xt, t) = D - (x - D) / sigma, simplified so that no nearly equal numbers are
    subtracted:

        noise  (1 + sigma) (xt - o)
        data   (1 + sigma) (o - xt) / sigma
        v      (1 + sigma) ((1 - sigma) xt - o / a) / (1 + sigma^2)

    Source: Salimans and Ho, arXiv 2202.00512, section 4 (the three predictions, for a^2 + b^2 = 1);
    translated to our time.
    """

    def __init__(
        self,
        network: nn.Module,
        image: ImageShape,
        prediction: Literal["noise", "data", "v"],
        levels: NoiseLevels,
        sigma_min: float,
        sigma_max: float,
    ) -> None:
        """Wraps a network.

        The network is called with the scaled point, the time of the noise level and the label.

        Raises:
            ValueError: the levels are out of order.
        """
        super().__init__(network, image, sigma_min, sigma_max)
        self.prediction = prediction
        self.levels = levels

    def unit(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        return self._velocity_of(self._level(t.double())).answer.abs()

    def _denoise(self, x: Tensor, sigma: Tensor, label: Condition) -> Tensor:
        answer = self._answer(x, sigma, label)
        return self._image_of(sigma.double()).of(x, answer).to(x.dtype)

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        sigma = self._level(t.double())
        answer = self._answer(expand_time(1.0 + sigma) * xt, sigma, label)
        return self._velocity_of(sigma).of(xt, answer).to(xt.dtype)

    def _answer(self, x: Tensor, sigma: Tensor, label: Condition) -> Tensor:
        level = sigma.double()
        scaled = expand_time(self.levels.scale(level)) * x
        return self._call(scaled.float(), self.levels.time(level), label)

    def _image_of(self, sigma: Tensor) -> _Mixture:
        if self.prediction == "noise":
            return _Mixture(sigma.new_ones(len(sigma)), -sigma)
        if self.prediction == "data":
            return _Mixture(sigma.new_zeros(len(sigma)), sigma.new_ones(len(sigma)))
        total = 1.0 + sigma.square()
        return _Mixture(1.0 / total, -sigma / (self.levels.scale(sigma) * total))

    def _velocity_of(self, sigma: Tensor) -> _Mixture:
        more = 1.0 + sigma
        if self.prediction == "noise":
            return _Mixture(more, -more)
        if self.prediction == "data":
            return _Mixture(-more / sigma, more / sigma)
        share = more / (1.0 + sigma.square())
        return _Mixture(share * (1.0 - sigma), -share / self.levels.scale(sigma))


def make_flow(network: nn.Module, image: ImageShape, how: Parameterisation) -> Flow:
    """The flow of a network."""
    flow = _made(network, image, how)
    flow.null_class = how.null_class
    return flow


def _made(network: nn.Module, image: ImageShape, how: Parameterisation) -> Flow:
    if how.prediction == "velocity":
        return NetworkFlow(network, image, how.t_start)
    low, high = how.levels()
    if how.prediction == "edm":
        return EDMFlow(network, image, how.sigma_data, low, high)
    return DiffusionFlow(network, image, how.prediction, noise_levels(how.schedule), low, high)
