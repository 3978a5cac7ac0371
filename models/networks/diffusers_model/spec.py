"""A transformer of the package diffusers, described by its own config."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from slimctl.models.networks.diffusers_unet.spec import NEEDS_DIFFUSERS
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.diffusers_model.network import DiffusersModel

ModelClass = Literal["DiTTransformer2DModel"]
"""Networks of the package that are known here."""


class DiffusersModelSpec(NetworkSpec):
    """A network of diffusers that is conditional on classes; needs the extra `diffusers`.

    One class more than the images have, the number `num_embeds_ada_norm`, stands for none.
    """

    kind: Literal["diffusers_model"] = "diffusers_model"
    """Family of the network."""
    model: ModelClass
    """Its class in the package."""
    config: dict[str, Any]
    """Its config.json; keys that begin with `_` are left out."""
    convention: Literal["flow", "timestep"] = "timestep"
    """`flow`: given timesteps (1 - t), it answers noise - image, as diffusers' flow-matching
    schedulers have it, and the sign is turned; `timestep`: called and answering as it is."""
    timesteps: float = Field(default=1000.0, gt=0)
    """What 1 - t is multiplied by, in the convention `flow`."""
    frequency_shift: float | None = None
    """What is taken off the number of frequencies in the embedding of the time: the package's
    transformers have 1, SiT has 0; null = the package's."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def channels(self) -> int:
        """Channels of what it works on."""
        channels: int = self.config.get("in_channels", 4)
        return channels

    @property
    def null_class(self) -> int | None:
        """The class that stands for none; None = there is none."""
        number: int | None = self.config.get("num_embeds_ada_norm", 1000)
        return number

    def check(self, image: ImageShape) -> None:
        if find_spec("diffusers") is None:
            raise ValueError(NEEDS_DIFFUSERS)
        if self.channels != image.channels:
            raise ValueError(
                f"the config's in_channels is {self.channels}, but the images have {image.channels}"
                f"\n  fix: set in_channels to {image.channels}"
            )
        patch = self.config.get("patch_size", 2)
        if image.size % patch:
            raise ValueError(
                f"{image.size} px cannot be cut into patches of {patch}"
                "\n  fix: use another patch_size, or another size"
            )
        classes = self.null_class or 0
        if image.classes > classes or (classes and not image.classes):
            raise ValueError(
                f"the config's num_embeds_ada_norm is {classes}, but there are {image.classes} "
                f"classes\n  fix: set num_embeds_ada_norm to {image.classes}"
            )

    def build(self, image: ImageShape) -> "DiffusersModel":
        from slimctl.models.networks.diffusers_model.network import DiffusersModel

        self.check(image)
        return DiffusersModel(self, image)
