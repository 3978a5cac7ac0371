"""What every flow offers: a velocity for a point, a time and a label.

`Flow.velocity` checks the labels once, for every kind of flow; what a network predicts other than
velocity is translated in a `Flow` of its own, so solvers and losses know velocities only.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import nn

from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder


class Flow(nn.Module, ABC):
    """A velocity field that carries noise at t = 0 to images at t = 1. Abstract.

    The images are pixels, or the latents that an autoencoder makes of them.

    Attributes:
        image: shape of the images and number of classes.
        t_start: flow time at which sampling starts, in [0, 1).
        null_class: label that stands for no class, beside those of `image`; None = there is none.
        autoencoder: what decodes the images, where they are latents; None where they are pixels,
            or where nobody has asked for it.
    """

    null_class: int | None = None
    autoencoder: "Autoencoder | None"

    def __init__(self, image: ImageShape, t_start: float = 0.0) -> None:
        """Raises ValueError if t_start is outside [0, 1)."""
        super().__init__()
        if not 0.0 <= t_start < 1.0:
            raise ValueError(f"t_start is {t_start}: it must lie in [0, 1)")
        self.image = image
        self.t_start = t_start
        self.autoencoder = None

    def velocity(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity dx/dt at the points xt.

        Args:
            xt: points; at t = 1 pixels in [-1, 1], or latents.
            t: flow times in [0, 1].
            label: classes 0..classes-1, or the null class; None for an unconditional flow.

        Raises:
            ValueError: labels are missing, not wanted or, on the CPU, outside the range.
        """
        check_label(self.image, label, self.null_class)
        return self._velocity(xt, t, label)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k y x"]:
        """Pixels in [-1, 1], not clipped, of what the flow ends at.

        A flow without an autoencoder makes pixels, which are returned as they are.
        """
        return latents if self.autoencoder is None else self.autoencoder.decode(latents)

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The point at t_start that noise of unit variance stands for: here x0 itself."""
        return x0

    @abstractmethod
    def _velocity(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Velocity with checked labels; shapes as in `velocity`."""


class NetworkFlow(Flow):
    """A flow whose velocity is the output of a network called as `network(xt, t, label)`."""

    def __init__(self, network: nn.Module, image: ImageShape, t_start: float = 0.0) -> None:
        super().__init__(image, t_start)
        self.network = network

    def _velocity(self, xt: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        velocity: Tensor = self.network(xt, t, label)
        return velocity


def check_label(
    image: ImageShape, label: Int[Tensor, " b"] | None, null_class: int | None = None
) -> None:
    """Checks that labels are given exactly where there are classes, and that they are classes.

    The null class, where there is one, is a label as well.

    Values are looked at on the CPU only: on an accelerator that would wait for all earlier work.

    Raises:
        ValueError: labels are missing, not wanted or outside 0..classes-1.
    """
    classes = image.classes
    if label is None:
        if classes > 0:
            raise ValueError(f"this model has {classes} classes: pass a label for each sample")
        return
    if classes == 0:
        raise ValueError("this model is unconditional, but labels were passed: leave them out")
    if label.device.type != "cpu" or len(label) == 0:
        return
    given = label if null_class is None else label[label != null_class]
    if len(given) == 0:
        return
    low, high = (int(bound) for bound in given.aminmax())
    if low < 0 or high >= classes:
        null = "" if null_class is None else f", and {null_class} for none"
        raise ValueError(f"labels run from {low} to {high}: this model has 0..{classes - 1}{null}")
