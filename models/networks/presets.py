"""The published networks by name.

Parameters and multiply-adds are stored here, and a test builds each network to verify them, so
that a listing needs no torch. A further published network is one more row. Dropout is the
published one in the teachers, which see the same few images again and again, and 0 in the
students, whose pairs the teacher makes as many of as one likes; the paper trained them with 0.15
(NCSN++) and 0.13 (ADM), which its settings in `configs` say. EDM's networks are listed as they
are published: they predict what EDM's preconditioning makes an image of, and are fed ln(sigma) / 4.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field, SerializeAsAny

from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape, Spec


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
    """Multiply-adds of one evaluation for one image, as `metrics.cost` counts them."""

    @property
    def family(self) -> str:
        """The network's kind."""
        return self.network.kind


_CIFAR = ImageShape(channels=3, size=32)
_FFHQ = ImageShape(channels=3, size=64)
_IMAGENET = ImageShape(channels=3, size=64, classes=1000)

_WIDE = SongUNetSpec(channels=128)
_MEDIUM = SongUNetSpec(channels=96)
_NARROW = SongUNetSpec(channels=64)
_SHALLOW = SongUNetSpec(channels=64, channel_multipliers=(1, 1, 2), blocks=1)
_TEACHER = SongUNetSpec(channels=128, channel_multipliers=(1, 2, 2, 2), blocks=4, dropout=0.15)
_ADM = ADMSpec(channels=128)
_NARROW_ADM = ADMSpec(channels=128, channel_multipliers=(1, 2, 2, 2))
_DDPMPP = SongUNetSpec(
    channels=128,
    channel_multipliers=(2, 2, 2),
    blocks=4,
    dropout=0.13,
    time_scale=1.0,
    label_entry="features",
    augment=9,
)
_EDM_ADM = ADMSpec(
    channels=192,
    channel_multipliers=(1, 2, 3, 4),
    blocks=3,
    attention_resolutions=(32, 16, 8),
    dropout=0.1,
    time_scale=1.0,
)

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
    ("imagenet64-80.7m", _ADM, _IMAGENET, 80_685_315, 31_037_784_064),
    ("imagenet64-44.7m", _NARROW_ADM, _IMAGENET, 44_685_827, 28_061_794_304),
    ("edm-cifar10-55.7m", _DDPMPP, _CIFAR, 55_733_891, 20_668_023_936),
    ("edm-imagenet64-295.9m", _EDM_ADM, _IMAGENET, 295_899_267, 103_448_199_168),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        name: Preset(name=name, network=network, image=image, parameters=parameters, macs=macs)
        for name, network, image, parameters, macs in _ROWS
    }
)
"""Name -> preset. Source: SlimFlow (arXiv 2407.12718), EDM (arXiv 2206.00364), and their public
configurations."""
