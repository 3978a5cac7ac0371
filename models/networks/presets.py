"""The published networks by name.

Parameters and multiply-adds are stored here, and a test builds each network to verify them, so
that a listing needs no torch. A further published network is one more row. Dropout is the
published 0.15 in the teacher, which sees the same few images again and again, and 0 in the
students, whose pairs the teacher makes as many of as one likes.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field, SerializeAsAny

from models.networks.song_unet.spec import SongUNetSpec
from models.networks.spec import NetworkSpec
from models.spec import ImageShape, Spec


class Preset(Spec):
    """A published network and the images that it was published for."""

    name: str
    """What a pipeline file calls it."""
    network: SerializeAsAny[NetworkSpec]
    """Its architecture."""
    image: ImageShape
    """The published images; the architecture can be built for others."""
    parameters: int = Field(ge=1)
    """Number of parameters for the published images."""
    macs: int = Field(ge=1)
    """Multiply-adds of one evaluation for one image, as `models.metrics.cost` counts them."""

    @property
    def family(self) -> str:
        """The network's kind."""
        return self.network.kind


_CIFAR = ImageShape(channels=3, size=32)
_FFHQ = ImageShape(channels=3, size=64)

_WIDE = SongUNetSpec(channels=128)
_MEDIUM = SongUNetSpec(channels=96)
_NARROW = SongUNetSpec(channels=64)
_SHALLOW = SongUNetSpec(channels=64, channel_multipliers=(1, 1, 2), blocks=1)
_TEACHER = SongUNetSpec(channels=128, channel_multipliers=(1, 2, 2, 2), blocks=4, dropout=0.15)

_ROWS: tuple[tuple[str, NetworkSpec, ImageShape, int, int], ...] = (
    ("cifar10-27.9m", _WIDE, _CIFAR, 27_906_179, 6_573_850_624),
    ("cifar10-15.7m", _MEDIUM, _CIFAR, 15_707_235, 3_699_118_080),
    ("cifar10-7.0m", _NARROW, _CIFAR, 6_989_891, 1_645_232_128),
    ("cifar10-3.4m", _SHALLOW, _CIFAR, 3_437_123, 705_200_128),
    ("cifar10-1rf-61.8m", _TEACHER, _CIFAR, 61_804_419, 10_338_893_824),
    ("ffhq64-27.9m", _WIDE, _FFHQ, 27_906_179, 26_287_341_568),
    ("ffhq64-15.7m", _MEDIUM, _FFHQ, 15_707_235, 14_791_938_048),
    ("ffhq64-7.0m", _NARROW, _FFHQ, 6_989_891, 6_578_913_280),
    ("ffhq64-3.5m", _SHALLOW, _FFHQ, 3_536_195, 2_819_522_560),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        name: Preset(name=name, network=network, image=image, parameters=parameters, macs=macs)
        for name, network, image, parameters, macs in _ROWS
    }
)
"""Name -> preset. Source: SlimFlow (arXiv 2407.12718) and its public configurations."""
