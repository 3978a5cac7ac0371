"""A folder with a model that needs nothing but `models` to be used: a description and its weights.

model.json            what it is (`ModelDescription`)
weights.safetensors   averaged weights, float32; of a fleet `weights-0.safetensors` and so on
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.engine import choose_engine
from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.partition import check_subsets
from slimctl.models.routing import RoutedFlow
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import ImageShape, Spec

DESCRIPTION = "model.json"


class Member(Spec):
    """One network of a model."""

    network: AnyNetworkSpec
    """Its architecture."""
    file: str = Field(default="weights.safetensors", pattern=r"^[A-Za-z0-9_.-]+$")
    """Its weights."""
    flow: Parameterisation | None = None
    """What it predicts, if it is followed by a solver; null = it makes images in one step."""
    t_start: float = Field(default=0.0, ge=0, lt=1)
    """Flow time at which a one-step network sees the noise."""


class ModelDescription(Spec):
    """What a folder holds."""

    format: Literal[1] = 1
    name: str
    """What its maker called it."""
    image: ImageShape
    """Shape of the images and number of classes."""
    members: tuple[Member, ...] = Field(min_length=1)
    """Its networks; more than one is a fleet."""
    subsets: tuple[tuple[int, ...], ...] = ()
    """Classes that each network of a fleet serves; () = one network serves all."""
    solver: SolverSpec | None = None
    """How the images are solved for; null = in one step."""
    label_counts: tuple[int, ...] = ()
    """Label marginal to sample from, as counts; () if unconditional."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, where they are known."""
    generator_version: int = GENERATOR_VERSION
    """Version of the random numbers whose samples its maker measured."""

    @model_validator(mode="after")
    def _consistent(self) -> "ModelDescription":
        if self.generator_version != GENERATOR_VERSION:
            raise ValueError(
                f"its samples were drawn with version {self.generator_version} of the random "
                f"numbers, this program has version {GENERATOR_VERSION}"
            )
        if len({member.flow is None for member in self.members}) > 1:
            raise ValueError("some members take one step, others a solver")
        if (self.members[0].flow is None) != (self.solver is None):
            raise ValueError("a solver goes with members that have a flow, and only with them")
        fleet = len(self.members) > 1 or bool(self.subsets)
        if fleet and len(self.subsets) != len(self.members):
            raise ValueError(f"{len(self.members)} members have {len(self.subsets)} subsets")
        if self.subsets:
            check_subsets(self.subsets, self.image.classes)
        if self.label_counts and len(self.label_counts) != self.image.classes:
            counts, classes = len(self.label_counts), self.image.classes
            raise ValueError(f"label_counts has {counts} numbers for {classes} classes")
        for member in self.members:
            member.network.check(self.image)
        return self


class ModelFolderError(ValueError):
    """A folder that holds no such model; the message says what to do."""


def write_model_folder(
    folder: Path, description: ModelDescription, weights: Sequence[Mapping[str, Tensor]]
) -> None:
    """Writes a model; `weights` are those of each member, by parameter name."""
    folder.mkdir(parents=True, exist_ok=True)
    for member, tensors in zip(description.members, weights, strict=True):
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, folder / member.file, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n")


def read_description(folder: Path) -> ModelDescription:
    """What a folder holds.

    Raises:
        ModelFolderError: there is no description, or it describes nothing known.
    """
    path = folder / DESCRIPTION
    try:
        return ModelDescription.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelFolderError(
            f"{folder}: holds no {DESCRIPTION}\n  fix: name a folder that `slimctl export` made"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise ModelFolderError(
            f"{path}: {at}: {first['msg']}\n  fix: export the model again, with this version"
        ) from error


def open_model_folder(folder: Path, device: torch.device) -> Sampler:
    """The model of a folder, frozen, ready to draw.

    Raises:
        ModelFolderError: the folder is not whole; every tensor that differs is named.
    """
    known = read_description(folder)
    networks = []
    for member in known.members:
        network = member.network.build(known.image)
        _load(network, folder / member.file)
        network.eval().requires_grad_(requires_grad=False)
        networks.append(choose_engine(device, "sampling").place(network, device))
    return Sampler(flow_of(known, networks, device), known.solver, known.label_counts, device)


def flow_of(known: ModelDescription, networks: Iterable[nn.Module], device: torch.device) -> Flow:
    """The velocity that the networks of a model stand for, in the order of its members."""
    flows: list[Flow] = []
    for member, network in zip(known.members, networks, strict=True):
        if member.flow is None:
            flows.append(NetworkFlow(network, known.image, member.t_start))
        else:
            flows.append(make_flow(network, known.image, member.flow).to(device))
    return RoutedFlow(flows, known.subsets) if known.subsets else flows[0]


def _load(network: nn.Module, path: Path) -> None:
    fix = "export the model again"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFolderError(f"{path}: cannot be read: {error}\n  fix: {fix}") from error
    own = network.state_dict()
    wrong = sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    )
    if wrong:
        raise ModelFolderError(
            f"{path}: does not fit the network of {DESCRIPTION}: missing, unexpected or misshapen "
            f"are {', '.join(wrong)}\n  fix: {fix}"
        )
    network.load_state_dict(weights)
