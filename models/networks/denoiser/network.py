"""The network of a `DenoiserSpec`."""

import torch
from torch import nn

from slimctl.models.conditions import Condition, Embedded, GivenTexts
from slimctl.models.flows.denoising import make_flow
from slimctl.models.losses import expected_image
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.shapes import Float, Tensor
from slimctl.models.spec import ImageShape


class Denoiser(nn.Module):
    """x0 + u(x0) is the image that the flow expects at t = 1 / (1 + sigma) behind (1 - t) x0.

    At t = 0 an exact flow expects the mean of all images, whatever the noise is, so that a student
    that begins there has to leave it first; at a moderate level its images differ from the start.
    """

    def __init__(self, spec: DenoiserSpec, image: ImageShape) -> None:
        super().__init__()
        self.flow = make_flow(spec.network.build(image), image, spec.flow)
        self._t = 1.0 / (1.0 + spec.sigma)
        if spec.takes_text:
            self.flow.text = GivenTexts()

    def example_text(self, batch: int, device: torch.device | str) -> Embedded | None:
        """Texts of the form that it takes, with numbers that mean nothing; None of classes."""
        example = getattr(self.network, "example_text", None)
        text: Embedded | None = example(batch, device) if example else None
        return text

    @property
    def network(self) -> nn.Module:
        """The flow's network."""
        inner: nn.Module = self.flow.network  # type: ignore[assignment]
        return inner

    def forward(
        self,
        x0: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Condition = None,
    ) -> Float[Tensor, "b c h w"]:
        """As `NetworkSpec` says, of pure noise: what t is does not count."""
        begin = torch.full_like(t, self._t)
        return expected_image(self.flow.velocity, (1.0 - self._t) * x0, begin, label) - x0
