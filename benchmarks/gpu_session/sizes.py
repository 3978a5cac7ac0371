"""How large everything in a session is: on a GPU, and for a dry run on a CPU."""

from dataclasses import dataclass

from slimctl.models.networks.presets import PRESETS
from slimctl.models.networks.size import network_size
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape


@dataclass(frozen=True)
class Case:
    """A network, and the images that it is measured on."""

    name: str
    network: NetworkSpec
    image: ImageShape

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return network_size(self.network, self.image).parameters

    @property
    def macs(self) -> int:
        """Multiply-adds of one evaluation for one image."""
        return network_size(self.network, self.image).macs


@dataclass(frozen=True)
class Sizes:
    """Of a whole session."""

    matrix: int
    """Rows and columns of the matrix product whose rate is measured."""
    copy_mib: int
    students: tuple[Case, ...]
    """Networks whose training step is timed; the first also beside the official code."""
    batches: tuple[int, ...]
    """Local batches of a step, the first ones measured first; the largest is the whole batch of a
    GPU that has enough."""
    compiled: tuple[int, ...]
    """Those that are compiled as well: each costs the better part of a minute."""
    sampler: Case
    """Network whose evaluations a second are measured."""
    sampler_batch: int
    teacher: Case
    """Network that is trained first, so that numbers of evaluations mean something."""
    teacher_steps: int
    teacher_batch: int
    noises: int
    """End points that errors are taken of."""
    evaluations: int
    """Of the fitted grid."""
    philox: int
    """Images of noise drawn at once."""
    pairs: int
    inception: int
    """Images at once."""
    features: int
    """Rows of features of a Fréchet distance of 2048 dimensions."""
    dimensions: int
    large: Case
    """Network whose training state is copied and written."""
    steps: int = 20
    """Of a training whose result is compared, and of one that may not wait for the device."""
    repeats: int = 10
    """Of a measurement, at most."""
    patience: float = 1.0
    """What budgets are multiplied by."""


def _preset(name: str) -> Case:
    preset = PRESETS[name]
    return Case(name, preset.network, preset.image.model_copy(update={"classes": 0}))


REAL = Sizes(
    matrix=8192,
    copy_mib=1024,
    students=(_preset("cifar10-15.7m"), _preset("imagenet64-80.7m")),
    batches=(128, 512, 64, 16, 2),
    compiled=(128, 512),
    sampler=_preset("cifar10-1rf-61.8m"),
    sampler_batch=500,
    teacher=_preset("cifar10-7.0m"),
    teacher_steps=1500,
    teacher_batch=128,
    noises=256,
    evaluations=14,
    philox=512,
    pairs=20_000,
    inception=100,
    features=20_000,
    dimensions=2048,
    large=_preset("edm-imagenet64-295.9m"),
)
"""The presets of the paper: 15.7 M at 32 px, 80.7 M at 64 px, 61.8 M to sample, a 300 M state."""

_TINY = Case(
    "tiny",
    SongUNetSpec(
        channels=4,
        channel_multipliers=(1,),
        blocks=1,
        attention_resolutions=(),
        middle_attention=False,
    ),
    ImageShape(channels=3, size=8),
)
DRY = Sizes(
    matrix=64,
    copy_mib=1,
    students=(_TINY,),
    batches=(4, 8, 2),
    compiled=(8,),
    sampler=_TINY,
    sampler_batch=8,
    teacher=_TINY,
    teacher_steps=20,
    teacher_batch=8,
    noises=8,
    evaluations=3,
    philox=8,
    pairs=64,
    inception=1,
    features=64,
    dimensions=16,
    large=_TINY,
    steps=4,
    repeats=1,
    patience=10.0,
)
"""Whether the program runs, not a measurement."""
