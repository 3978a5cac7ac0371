"""What can be chosen in an MLP."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.mlp.network import MLP

MOST_VALUES = 4096
"""Pixel values of the largest image that an MLP takes."""


class MLPSpec(NetworkSpec):
    """Residual linear layers on all pixel values of an image at once.

    Made for points in the plane (images of one pixel and two channels), where a convolution has
    nothing to look at: with width 20 and two layers it has 1.3 k parameters.
    """

    takes_second_time: ClassVar[bool] = True

    kind: Literal["mlp"] = "mlp"
    """Family of the network."""
    width: int = Field(default=64, ge=4, le=8192)
    """Numbers that a layer passes on."""
    layers: int = Field(default=2, ge=1, le=64)
    """Residual layers between the first and the last."""
    frequencies: int = Field(default=4, ge=1, le=64)
    """Sines and cosines of time: pi t, 2 pi t, 3 pi t and so on."""
    null_class: Annotated[bool, ADDED] = False
    """Whether one class more, the last, stands for none: what `label_dropout` trains."""

    def check(self, image: ImageShape) -> None:
        values = image.channels * image.size**2
        if values > MOST_VALUES:
            raise ValueError(
                f"an mlp looks at all {values} values of an image at once; it takes {MOST_VALUES}"
                "\n  fix: use a song_unet for images"
            )

    def build(self, image: ImageShape) -> "MLP":
        from slimctl.models.networks.mlp.network import MLP

        self.check(image)
        return MLP(self, image)
