"""EDM's denoiser as a flow: a network behind EDM's preconditioning, in our time.

EDM adds noise to the image, x = x1 + sigma x0, where we mix, xt = (1 - t) x0 + t x1. The two are
the same point at another scale, xt = x / (1 + sigma), at t = 1 / (1 + sigma).
"""

from torch import nn

from models.flows.flow import Flow, check_label
from models.flows.path import expand_time
from models.shapes import Float, Int, Tensor
from models.spec import ImageShape


class EDMFlow(Flow):
    """A flow whose network F is called with c_in x and c_noise = ln(sigma) / 4. Final.

    With s = sigma_data, D(x; sigma) = c_skip x + c_out F(c_in x, c_noise, label),

        c_skip = s^2 / (sigma^2 + s^2)            c_in  = 1 / sqrt(sigma^2 + s^2)
        c_out  = sigma s / sqrt(sigma^2 + s^2)    sigma = (1 - t) / t,  x = xt / t
        v(xt, t) = (D - xt) / (1 - t)
                 = (1 + sigma) ((s^2 - sigma) xt / (sigma^2 + s^2) + s F / sqrt(sigma^2 + s^2))

    The last form has no difference of nearly equal numbers at either end. sigma is held within
    [sigma_min, sigma_max], so that v is finite at t = 0 and t = 1: beyond the two, xt is taken for
    a point at the nearest time that the network knows. Sampling starts at sigma_max.

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
        if not 0.0 < sigma_min < sigma_max or sigma_data <= 0.0:
            raise ValueError(
                f"sigma_data is {sigma_data}, sigma_min {sigma_min}, sigma_max {sigma_max}: "
                "0 < sigma_min < sigma_max and sigma_data > 0 are needed"
            )
        super().__init__(image, t_start=1.0 / (1.0 + sigma_max))
        self.network = network
        self.sigma_data = sigma_data
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def denoise(
        self,
        x: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser D(x; sigma): the expected image behind x = image + sigma noise.

        Args:
            x: images with noise, not scaled.
            sigma: standard deviation of the noise, > 0; any level, not only those of the velocity.
            label: classes 0..classes-1; None for an unconditional flow.

        Raises:
            ValueError: labels are missing, not wanted or, on the CPU, outside the range.
        """
        check_label(self.image, label)
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        skip = self.sigma_data**2 / total
        scale = level * self.sigma_data * total.rsqrt()
        return skip * x + scale * self._network(x, sigma, label)

    def _velocity(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        sigma = ((1.0 - t) / t).clamp(self.sigma_min, self.sigma_max)
        level = expand_time(sigma)
        total = level.square() + self.sigma_data**2
        f = self._network((1.0 + level) * xt, sigma, label)
        pull = (self.sigma_data**2 - level) / total
        return (1.0 + level) * (pull * xt + self.sigma_data * total.rsqrt() * f)

    def _network(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """F(c_in x, c_noise, label), computed in the network's precision, whatever x's is."""
        scaled = expand_time(sigma.square() + self.sigma_data**2).rsqrt() * x
        weight = next(self.network.parameters(), scaled)
        f: Tensor = self.network(scaled.to(weight.dtype), sigma.log() / 4.0, label)
        return f.to(x.dtype)
