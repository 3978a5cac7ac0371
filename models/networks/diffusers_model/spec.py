"""A transformer of the package diffusers, described by its own config."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from slimctl.models.networks.diffusers_model.slimmed import slimmed, units_of
from slimctl.models.networks.diffusers_unet.spec import NEEDS_DIFFUSERS
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.diffusers_model.network import DiffusersModel

ModelClass = Literal[
    "DiTTransformer2DModel",
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "PixArtTransformer2DModel",
    "FluxTransformer2DModel",
]
"""Networks of the package that are known here."""


class DiffusersModelSpec(NetworkSpec):
    """A network of diffusers that works on latents; needs the extra `diffusers`.

    `DiTTransformer2DModel` takes classes: one more than the images have, number
    `num_embeds_ada_norm`, stands for none. The others take embedded texts.
    """

    kind: Literal["diffusers_model"] = "diffusers_model"
    """Family of the network."""
    model: ModelClass
    """Its class in the package."""
    config: dict[str, Any]
    """Its config.json; keys that begin with `_` are left out."""
    convention: Literal["flow", "timestep", "instaflow"] = "timestep"
    """`flow`: given timesteps (1 - t), it answers noise - image, as diffusers' flow-matching
    schedulers have it, and the sign is turned; `instaflow`: the same with image - noise;
    `timestep`: called and answering as it is."""
    timesteps: float = Field(default=1000.0, gt=0)
    """What 1 - t is multiplied by, in the conventions `flow` and `instaflow`."""
    embedded_guidance: float | None = None
    """Guidance that a distilled network is given as an input; null = it takes none."""
    frequency_shift: float | None = None
    """What is taken off the number of frequencies in the embedding of the time: the package's
    transformers have 1, SiT has 0; null = the package's."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def channels(self) -> int:
        """Channels of what it works on."""
        channels: int = self.config.get("in_channels", 4)
        return channels // 4 if self.packed else channels

    @property
    def packed(self) -> bool:
        """Whether 2 x 2 latents are one input of the network."""
        return self.model == "FluxTransformer2DModel"

    @property
    def takes_text(self) -> bool:
        """Whether it is conditional on embedded texts, not on classes."""
        return self.model != "DiTTransformer2DModel"

    @property
    def text_width(self) -> int | None:
        """Numbers of each token."""
        name = {
            "UNet2DConditionModel": "cross_attention_dim",
            "PixArtTransformer2DModel": "caption_channels",
        }.get(self.model, "joint_attention_dim")
        usual = {"cross_attention_dim": 1280, "joint_attention_dim": 4096}
        width: int | None = self.config.get(name, usual.get(name))
        return width if self.takes_text else None

    @property
    def null_class(self) -> int | None:
        """The class that stands for none; None = there is none."""
        if self.takes_text:
            return None
        number: int | None = self.config.get("num_embeds_ada_norm", 1000)
        return number

    @property
    def units(self) -> tuple[int, ...]:
        return units_of(self.model, self.config)

    def slimmed(self, width: float, depth: float) -> "DiffusersModelSpec":
        config = slimmed(self.model, self.config, width, depth)
        return self.model_copy(update={"config": config})

    def check(self, image: ImageShape) -> None:
        if find_spec("diffusers") is None:
            raise ValueError(NEEDS_DIFFUSERS)
        if self.channels != image.channels:
            raise ValueError(
                f"the config's in_channels is {self.channels}, but the images have {image.channels}"
                f"\n  fix: set in_channels to {image.channels}"
            )
        if unknown := self._unknown():
            raise ValueError(
                f"the config has {unknown}, which this program does not know"
                "\n  fix: give a network without it"
            )
        if bool(self.config.get("guidance_embeds")) != (self.embedded_guidance is not None):
            takes = "takes" if self.config.get("guidance_embeds") else "does not take"
            fix = "give" if self.config.get("guidance_embeds") else "leave out"
            raise ValueError(
                f"the network {takes} guidance as an input\n  fix: {fix} embedded_guidance"
            )
        patch = 2 if self.packed else self._patch()
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

    def _patch(self) -> int:
        """What the size of the latents must be a multiple of."""
        if self.model == "UNet2DConditionModel":
            return int(2 ** (len(self.config.get("block_out_channels", (0,) * 4)) - 1))
        patch: int = self.config.get("patch_size", 2)
        return patch

    def _unknown(self) -> str | None:
        """What of the config is not known here."""
        known = {
            "addition_embed_type": (None, "text_time"),
            "class_embed_type": (None,),
            "encoder_hid_dim_type": (None,),
            "time_cond_proj_dim": (None,),
        }
        wrong = [name for name, values in known.items() if self.config.get(name) not in values]
        return f"{wrong[0]} {self.config[wrong[0]]}" if wrong else None

    def build(self, image: ImageShape) -> "DiffusersModel":
        from slimctl.models.networks.diffusers_model.network import DiffusersModel

        self.check(image)
        return DiffusersModel(self, image)
