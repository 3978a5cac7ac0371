"""EDM's denoiser as a flow: a network behind EDM's preconditioning, in our time."""

from torch import nn

from slimctl.models.flows.denoising import DenoisingFlow
from slimctl.models.flows.path import expand_time
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape


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

        Args:
            network: F, an image of its input's shape; its time_scale is 1.
            image: shape of the images and number of classes.
            sigma_data: standard deviation of the images that the network was trained on, > 0.
            sigma_min: smallest noise level that the velocity asks the network for, > 0.
            sigma_max: largest one, > sigma_min; t_start is 1 / (1 + sigma_max).

        Raises:
            ValueError: the levels are out of order.
        """
        super().__init__(network, image, sigma_min, sigma_max)
        if sigma_data <= 0.0:
            raise ValueError(f"sigma_data is {sigma_data}: it must be above 0")
        self.sigma_data = sigma_data

    def _denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        skip = self.sigma_data**2 / total
        scale = level * self.sigma_data * total.rsqrt()
        return skip * x + scale * self._answer(x, sigma, label)

    def _velocity(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        sigma = self._level(t)
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        f = self._answer((1.0 + level) * xt, sigma, label)
        pull = (self.sigma_data**2 - level) / total
        return (1.0 + level) * (pull * xt + self.sigma_data * total.rsqrt() * f)

    def _answer(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """F(c_in x, c_noise, label)."""
        scaled = expand_time(sigma.square() + self.sigma_data**2).rsqrt() * x
        return self._call(scaled, sigma.log() / 4.0, label)
