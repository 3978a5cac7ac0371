"""One-step generators: an image from noise in one network evaluation."""

from torch import nn

from models.flows.flow import NetworkFlow
from models.flows.losses import one_step_velocity
from models.shapes import Float, Int, Tensor
from models.spec import ImageShape


class OneStepGenerator(nn.Module):
    """Generates x0 + v(x0, t_start), the factor exactly 1 whatever t_start is.

    Source: SlimFlow, arXiv 2407.12718, section 4; its students were trained at t_start = 1e-3 of
    our time, ours start at 0.
    """

    def __init__(self, network: nn.Module, image: ImageShape, t_start: float = 0.0) -> None:
        """Wraps `network(xt, t, label)`; raises ValueError if t_start is outside [0, 1)."""
        super().__init__()
        self.flow = NetworkFlow(network, image, t_start)

    @property
    def image(self) -> ImageShape:
        """Shape of the images and number of classes."""
        return self.flow.image

    @property
    def t_start(self) -> float:
        """Flow time at which the network sees the noise."""
        return self.flow.t_start

    def generate(
        self, x0: Float[Tensor, "b c h w"], label: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of noise x0, not clipped; label as in `Flow.velocity`."""
        return x0 + one_step_velocity(self.flow, x0, label)

    def forward(self, x0: Tensor, label: Tensor | None = None) -> Tensor:
        """The same as `generate`, for hooks, exporters and profilers."""
        images: Tensor = self.generate(x0, label)
        return images
