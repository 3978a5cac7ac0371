"""What flows have in common whose network was trained to take noise off images.

Noise is added to the image, x = x1 + sigma x0, where we mix, xt = (1 - t) x0 + t x1. The two are
the same point at another scale, xt = x / (1 + sigma), at t = 1 / (1 + sigma).
"""

from abc import abstractmethod

from torch import nn

from slimctl.models.flows.flow import Flow, check_label
from slimctl.models.shapes import Float, Int, Tensor
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
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """sigma_max x0 at our scale: there the image's share is what is left out."""
        return (1.0 - self.t_start) * x0

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
        return self._denoise(x, sigma, label)

    @abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        """The denoiser with checked labels; shapes as in `denoise`."""

    def _level(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The noise level of a time, within the network's."""
        return ((1.0 - t) / t).clamp(self.sigma_min, self.sigma_max)

    def _call(self, x: Tensor, time: Tensor, label: Tensor | None) -> Tensor:
        """The network's answer, computed in its own precision, whatever x's is."""
        weight = next(self.network.parameters(), x)
        answer: Tensor = self.network(x.to(weight.dtype), time.to(x.dtype), label)
        return answer.to(x.dtype)
