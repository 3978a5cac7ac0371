"""Diffusion models as flows: networks that predict the noise, the image, or v of the two."""

from typing import Literal, NamedTuple

from torch import nn

from slimctl.models.flows.denoising import DenoisingFlow
from slimctl.models.flows.noise_levels import NoiseLevels
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape


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

        Args:
            network: called with the scaled point, the time of the noise level and the label.
            image: shape of the images and number of classes.
            prediction: what it answers.
            levels: how it is fed.
            sigma_min: smallest noise level that the velocity asks it for, > 0.
            sigma_max: largest one, > sigma_min; t_start is 1 / (1 + sigma_max).

        Raises:
            ValueError: the levels are out of order.
        """
        super().__init__(network, image, sigma_min, sigma_max)
        self.prediction = prediction
        self.levels = levels

    def _denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        answer = self._answer(x, sigma, label)
        return self._image_of(sigma.double()).of(x, answer).to(x.dtype)

    def _velocity(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        sigma = self._level(t.double())
        answer = self._answer(expand_time(1.0 + sigma) * xt, sigma, label)
        return self._velocity_of(sigma).of(xt, answer).to(xt.dtype)

    def _answer(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
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
