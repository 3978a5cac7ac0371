"""What a caller knows better than the file."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from pydantic import ValidationError
from torch import nn
from torch.overrides import TorchFunctionMode

from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.parameterisation import Parameterisation, Prediction, Schedule
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape
from slimctl.models.text import TextEncoders

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder

Network = TypeVar("Network", bound=NetworkSpec)
Module = TypeVar("Module", bound=nn.Module)


class OverrideError(ValueError):
    """An argument that the file contradicts, and that is to be left out.

    Args:
        field: the argument's name.
        what: what contradicts it.
        unless: what else would do; "" for nothing.
    """

    def __init__(self, field: str, what: str, unless: str = "") -> None:
        super().__init__(f"{what}\n  fix: leave out {field}{unless}")
        self.field, self.what, self.unless = field, what, unless

    def inside(self, path: Path) -> "OverrideError":
        """The same of a file by its name."""
        return OverrideError(self.field, f"{path}: {self.what}", self.unless)


@dataclass(frozen=True)
class Overrides:
    """What is taken instead of what the file says, as the arguments of `load_teacher`.

    None and absent fields leave it to the file.
    """

    ema: bool = True
    variant: str | None = None
    size: int | None = None
    image_channels: int | None = None
    classes: int | None = None
    t_start: float | None = None
    prediction: Prediction | None = None
    schedule: Schedule | None = None
    convention: Literal["instaflow"] | None = None
    embedded_guidance: float | None = None
    autoencoder: Path | None = None
    """Folder of what the images are latents of, in place of the one beside the network."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's spec; all of them, if `kind` or `preset` is one of them."""

    def __post_init__(self) -> None:
        """Raises ValueError if a size is none."""
        for name, least in (("size", 1), ("image_channels", 1), ("classes", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                unit = " pixel" if name == "size" else ""
                what = f"{name} is {value}: images have at least {least}{unit}"
                raise OverrideError(name, what)

    @property
    def spec(self) -> NetworkSpec | None:
        """The whole network, if that is what is given."""
        if "kind" not in self.network and "preset" not in self.network:
            return None
        try:
            return parse_network(dict(self.network))
        except ValidationError as error:
            raise _refused(error) from error

    def apply(self, spec: Network, image: ImageShape) -> Network:
        """The spec with the overridden fields, for images that the file tells.

        Raises:
            ValueError: there is no such field, it cannot have such a value, or the images differ.
        """
        self.require_image(image)
        return self.network_of(spec)

    def require_image(self, image: ImageShape) -> None:
        """Raises ValueError if the images are asked for otherwise than the file has them."""
        stated = {"size": image.size, "image_channels": image.channels, "classes": image.classes}
        words = {"size": "px", "image_channels": "channels", "classes": "classes"}
        for name, value in stated.items():
            asked = getattr(self, name)
            if asked not in (None, value):
                what = f"holds a network for images of {value} {words[name]}, not {asked}"
                raise OverrideError(name, what)

    def require_how(self, how: Parameterisation) -> None:
        """Raises ValueError if prediction or schedule are asked for otherwise than they are."""
        for name, stated in (("prediction", how.prediction), ("schedule", how.schedule)):
            asked = getattr(self, name)
            if asked not in (None, stated):
                shown = stated if isinstance(stated, str) else stated.kind
                wanted = asked if isinstance(asked, str) else asked.kind
                raise OverrideError(name, f"says that its {name} is {shown}, not {wanted}")

    def network_of(self, spec: Network) -> Network:
        """The spec with the overridden fields; raises ValueError as `apply`."""
        whole = self.spec
        if whole is not None:
            if not isinstance(whole, type(spec)):
                what = f"holds a network of kind {spec.kind}, not {whole.kind}"
                raise OverrideError("network", what, f", or give one of kind {spec.kind}")
            return whole
        unknown = [name for name in self.network if name not in type(spec).model_fields]
        if unknown:
            known = [name for name in type(spec).model_fields if name != "kind"]
            nearest = difflib.get_close_matches(unknown[0], known, n=1)
            fix = f"use {nearest[0]}" if nearest else f"use some of {', '.join(known)}"
            raise ValueError(
                f"holds a network of kind {spec.kind}, which has no {', '.join(unknown)}"
                f"\n  fix: {fix}"
            )
        try:
            return type(spec).model_validate({**spec.model_dump(), **self.network})
        except ValidationError as error:
            raise _refused(error) from error

    def stated(self, **usual: Any) -> Parameterisation:
        """What the network predicts where only the caller says it, with usual values besides."""
        given = {"prediction": self.prediction, "schedule": self.schedule}
        known = {name: value for name, value in given.items() if value is not None}
        return Parameterisation(**usual, **known)

    def starting(self, how: Parameterisation) -> Parameterisation:
        """What the network predicts, with the start that is asked for.

        Raises:
            ValueError: a denoiser cannot start there, or prediction or schedule are others.
        """
        self.require_how(how)
        if how.denoises:
            return _from_level(how, self.t_start)
        t_start = how.t_start if self.t_start is None else self.t_start
        if not 0.0 <= t_start < 1.0:
            raise ValueError(f"cannot start at t = {t_start}\n  fix: give 0 <= t_start < 1")
        return how.model_copy(update={"t_start": t_start})


def _from_level(how: Parameterisation, t_start: float | None) -> Parameterisation:
    low, high = how.levels()
    if t_start is not None:
        if not 0.0 < t_start < 1.0 / (1.0 + low):
            raise ValueError(
                f"holds a denoiser, which cannot start at t = {t_start}"
                f"\n  fix: give 0 < t_start < {1.0 / (1.0 + low):g}"
            )
        high = (1.0 - t_start) / t_start
    levels = {"sigma_min": low, "sigma_max": high, "t_start": 1.0 / (1.0 + high)}
    return how.model_copy(update=levels)


def _refused(error: ValidationError) -> ValueError:
    mistakes = [
        f"{'.'.join(map(str, mistake['loc']))} is {mistake['input']!r}: {mistake['msg']}"
        for mistake in error.errors()
    ]
    return ValueError("\n  ".join(["cannot be read so:", *mistakes]))


@dataclass(frozen=True)
class AutoencoderFile:
    """An autoencoder that is read and checked, not yet built.

    Args:
        spec: its architecture.
        weights: name in its state dictionary -> tensor, contiguous; building takes them over.
    """

    spec: AutoencoderSpec
    weights: dict[str, Tensor]

    def build(self) -> "Autoencoder":
        """The autoencoder, on the CPU, frozen, in evaluation mode."""
        with _EmptyOnMeta():
            made = self.spec.build()
        return _filled(made, self.weights)


@dataclass(frozen=True)
class TeacherFile:
    """A teacher that is read and checked, not yet built.

    Args:
        network: architecture of its network.
        image: its images, with the number of classes.
        how: what the network predicts.
        weights: name in the network's state dictionary -> tensor, contiguous.
        assumed: what the file does not say and convention does, in words; "" = nothing.
        undecided: what neither says, so that it was guessed, in words; "" = nothing.
        decide: argument that would say it.
        label_counts: label marginal that the file states, as counts; () = none.
        one_step: whether the network was made to take one step from noise to image.
        autoencoder: what its images are latents of; None = they are pixels.
        text: what encodes its prompts; None = it takes none.
    """

    network: NetworkSpec
    image: ImageShape
    how: Parameterisation
    weights: dict[str, Tensor]
    assumed: str = ""
    undecided: str = ""
    decide: str = "size"
    label_counts: tuple[int, ...] = ()
    one_step: bool = False
    autoencoder: AutoencoderFile | None = None
    text: TextEncoders | None = None

    def require_finite(self) -> None:
        """Raises ValueError, naming every tensor that holds NaN or infinity."""
        every = dict(self.weights)
        if self.autoencoder:
            every |= {f"vae {name}": own for name, own in self.autoencoder.weights.items()}
        lost = [name for name, value in every.items() if not bool(value.isfinite().all())]
        if lost:
            raise ValueError(
                f"holds NaN or infinity in {', '.join(lost)}\n  fix: take an earlier checkpoint"
            )

    def flow(self) -> Flow:
        """The flow, on the CPU, frozen, in evaluation mode; it takes over the weights."""
        network = _filled(build_to_fill(self.network, self.image), self.weights)
        flow = make_flow(network, self.image, self.how)
        flow.text = self.text
        if self.autoencoder is not None:
            flow.autoencoder = self.autoencoder.build()
        return flow.eval().requires_grad_(requires_grad=False)


def _filled(module: Module, weights: dict[str, Tensor]) -> Module:
    """The module, frozen, in evaluation mode, with weights that it takes over.

    One by one: all of them twice, in float16 and in float32, are 5 GB of a network of 860 M.
    """
    state = {name: _as_float(weights.pop(name)) for name in list(weights)}
    module.load_state_dict(state, assign=True)
    return module.eval().requires_grad_(requires_grad=False)


class _EmptyOnMeta(TorchFunctionMode):
    """Gives memory to all that a module computes when it is made, and none to its weights.

    Layers allocate their weights by `torch.empty`; tables, which stand in no file, are computed.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = kwargs | {"device": "meta"}
        return func(*args, **kwargs)


def build_to_fill(spec: NetworkSpec, image: ImageShape) -> nn.Module:
    """The network without memory for its weights, where its family is known to allow that.

    Raises:
        ValueError: it cannot be built for images of that shape.
    """
    if isinstance(spec, (SongUNetSpec, ADMSpec)):
        with torch.device("meta"):
            return spec.build(image)
    if isinstance(spec, DiffusersModelSpec):
        with _EmptyOnMeta():
            return spec.build(image)
    return spec.build(image)


def _as_float(value: Tensor) -> Tensor:
    """Float32; whole numbers and truth values, which count or mask, stay what they are."""
    return value.float() if value.is_floating_point() else value
