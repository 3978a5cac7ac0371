"""A `UNet2DModel` of the package diffusers, described by its own config."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.diffusers_unet.network import DiffusersUNet

NEEDS_DIFFUSERS = (
    "this network needs the package diffusers, which is not installed"
    "\n  fix: pip install 'slimctl[diffusers]', on the workers too"
)


class DiffusersUNetSpec(NetworkSpec):
    """The unconditional or class-conditional U-Net of diffusers; needs the extra `diffusers`."""

    kind: Literal["diffusers_unet"] = "diffusers_unet"
    """Family of the network."""
    config: dict[str, Any]
    """Its config.json; keys that begin with `_` are left out."""
    convention: Literal["flow", "timestep"] = "flow"
    """`flow`: given timesteps (1 - t), it answers noise - image, as diffusers' flow-matching
    schedulers have it, and the sign is turned; `timestep`: called and answering as it is."""
    timesteps: float = Field(default=1000.0, gt=0)
    """What 1 - t is multiplied by, in the convention `flow`."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def check(self, image: ImageShape) -> None:
        if find_spec("diffusers") is None:
            raise ValueError(NEEDS_DIFFUSERS)
        channels = self.config.get("in_channels", 3)
        if channels != image.channels:
            raise ValueError(
                f"the config's in_channels is {channels}, but the images have {image.channels}"
                f"\n  fix: set in_channels and out_channels to {image.channels}"
            )
        halvings = len(self.config.get("block_out_channels", (0,) * 4)) - 1
        if image.size % 2**halvings:
            raise ValueError(
                f"{image.size} px cannot be halved {halvings} times"
                "\n  fix: use fewer block_out_channels, or another size"
            )
        embeds = self.config.get("num_class_embeds") or 0
        if image.classes > embeds or (embeds and not image.classes):
            raise ValueError(
                f"the config's num_class_embeds is {embeds}, but there are {image.classes} classes"
                f"\n  fix: set num_class_embeds to {image.classes or 'null'}"
            )

    def build(self, image: ImageShape) -> "DiffusersUNet":
        from slimctl.models.networks.diffusers_unet.network import DiffusersUNet

        self.check(image)
        return DiffusersUNet(self, image)
