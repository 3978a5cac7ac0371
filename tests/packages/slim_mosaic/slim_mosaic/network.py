"""One linear layer on all pixels of a tile and the time."""

from typing import Literal

from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape


class MosaicNetSpec(NetworkSpec):
    """A linear velocity, for tiles."""

    kind: Literal["mosaic_net"] = "mosaic_net"
    """Family of the network."""

    def check(self, image: ImageShape) -> None:
        if image.classes:
            raise ValueError("a mosaic_net takes no labels\n  fix: train it unconditionally")

    def build(self, image: ImageShape):
        from slim_mosaic.layers import MosaicNet

        self.check(image)
        return MosaicNet(image.channels * image.size**2)
