"""Our own form of a model: a description and the weights of its networks, in safetensors.

model.json            what it is (`ModelDescription`)
weights.safetensors   averaged weights, float32; of a fleet `weights-0.safetensors` and so on
autoencoder.safetensors   what decodes its latents, of a model that makes latents

That is the folder that `slimctl export` writes. `save_flow` writes one file, which holds the same
description in its header. Both are read as a generator of images and as a teacher, wherever
`models` runs.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from slimctl.models.checkpoints.paths import DESCRIPTION
from slimctl.models.checkpoints.saved_weights import is_averaged, lay_flat
from slimctl.models.checkpoints.state_dict import read_saved
from slimctl.models.checkpoints.teacher import (
    AutoencoderFile,
    OverrideError,
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.engine import choose_engine
from slimctl.models.flows.denoising import DiffusionFlow, EDMFlow, make_flow
from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation, Schedule
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.published_weights import differences, rename, same_names
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.partition import check_subsets
from slimctl.models.pixels import to_uint8
from slimctl.models.routing import RoutedFlow
from slimctl.models.sampling import Sampler
from slimctl.models.shapes import Tensor
from slimctl.models.solvers.spec import EDMHeunSpec, RK45Spec, SolverSpec
from slimctl.models.spec import ImageShape, Spec

AUTOENCODER_FILE = "autoencoder.safetensors"
"""In a folder, the weights of what decodes latents."""
ENTRY = "slimctl"
"""Name of the entry with the description in the header of a single file."""


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
    """What a folder or a file holds."""

    format: Literal[1] = 1
    name: str
    """What its maker called it."""
    image: ImageShape
    """Shape of the images, or of the latents, and number of classes."""
    autoencoder: AutoencoderSpec | None = None
    """What decodes its latents; null = it makes pixels."""
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
        if self.autoencoder is not None:
            self.autoencoder.require_latents(self.image)
        return self


class _FirstHeader(Parameterisation):
    """What `save_flow` wrote until version 0.1."""

    version: Literal[1]
    image: ImageShape
    network: AnyNetworkSpec

    def described(self) -> ModelDescription:
        how = {name: getattr(self, name) for name in Parameterisation.model_fields}
        return _of_flow(self.image, self.network, Parameterisation.model_validate(how))


class ModelFolderError(ValueError):
    """A folder or file that holds no such model; the message says what to do."""


def write_model_folder(
    folder: Path,
    description: ModelDescription,
    weights: Sequence[Mapping[str, Tensor]],
    autoencoder: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a model.

    Args:
        folder: where to.
        description: of the model.
        weights: of each member, by parameter name.
        autoencoder: weights of what decodes its latents, where it makes latents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for member, tensors in zip(description.members, weights, strict=True):
        save_file(_whole(tensors), folder / member.file, metadata={"format": "pt"})
    if autoencoder is not None:
        save_file(_whole(autoencoder), folder / AUTOENCODER_FILE, metadata={"format": "pt"})
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n")


def save_flow(
    flow: NetworkFlow | EDMFlow | DiffusionFlow,
    network: NetworkSpec,
    path: Path,
    schedule: Schedule | None = None,
) -> None:
    """Writes a flow as one file, which appears whole or not at all.

    network is the spec that its network was built from; a `DiffusionFlow` needs its schedule.

    Raises:
        ValueError: a `DiffusionFlow` without its schedule.
    """
    described = _of_flow(flow.image, network, _parameterisation(flow, schedule), path.stem)
    part = path.with_name(f"{path.name}.part")
    save_file(_whole(flow.network.state_dict()), part, {ENTRY: described.model_dump_json()})
    os.replace(part, path)  # noqa: PTH105


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _of_flow(
    image: ImageShape, network: NetworkSpec, how: Parameterisation, name: str = "flow"
) -> ModelDescription:
    return ModelDescription(
        name=name,
        image=image,
        members=(Member(network=network, flow=how, t_start=how.t_start),),
        solver=EDMHeunSpec() if how.denoises else RK45Spec(),
        label_counts=(1,) * image.classes,
    )


def _parameterisation(
    flow: NetworkFlow | EDMFlow | DiffusionFlow, schedule: Schedule | None
) -> Parameterisation:
    if isinstance(flow, NetworkFlow):
        return Parameterisation(t_start=flow.t_start)
    known: dict[str, Any] = {"prediction": "edm", "schedule": EDMSchedule()}
    if isinstance(flow, EDMFlow):
        known["sigma_data"] = flow.sigma_data
    elif schedule is None:
        raise ValueError("a DiffusionFlow is written with its schedule: pass schedule=...")
    else:
        known = {"prediction": flow.prediction, "schedule": schedule}
    levels = {"sigma_min": flow.sigma_min, "sigma_max": flow.sigma_max}
    return Parameterisation(t_start=flow.t_start, **levels, **known)


def read_description(path: Path) -> ModelDescription:
    """What a folder or a file holds.

    Raises:
        ModelFolderError: there is no description, or it describes nothing known.
    """
    known = _header(path)[0] if path.is_file() else None
    if path.is_file() and known is None:
        fix = "name a folder that `slimctl export` made, or a file of save_flow"
        raise ModelFolderError(f"{path}: has no description in its header\n  fix: {fix}")
    return known or _description(path / DESCRIPTION)


def _description(path: Path) -> ModelDescription:
    try:
        return ModelDescription.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelFolderError(
            f"{path.parent}: holds no {DESCRIPTION}"
            "\n  fix: name a folder that `slimctl export` made"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(map(str, first["loc"])) or "the file"
        raise ModelFolderError(
            f"{path}: {at}: {first['msg']}\n  fix: export the model again, with this version"
        ) from error


def _header(path: Path) -> tuple[ModelDescription | None, dict[str, Tensor]]:
    """The description in the header of a file, None without one, and the tensors.

    Raises:
        ValueError: the file is damaged, or described in an unknown way.
    """
    try:
        with safe_open(path, "pt") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            names = file.keys()
            # Tensors of safetensors lie in the mapped file: what is kept must not depend on it.
            state = {name: file.get_tensor(name).clone() for name in names}
        if entry is None:
            return None, state
        if '"members"' in entry:
            return ModelDescription.model_validate_json(entry), state
        return _FirstHeader.model_validate_json(entry).described(), state
    except (OSError, SafetensorError) as error:
        raise ValueError(f"is no readable safetensors ({error})\n  fix: copy it again") from error
    except ValidationError as error:
        reasons = "; ".join(mistake["msg"] for mistake in error.errors())
        raise ValueError(
            f"describes its flow in a way that this version does not know ({reasons})"
            "\n  fix: write it again with this version"
        ) from error


def read_model(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a folder or file as a teacher; a file without description needs the caller's.

    Raises:
        ValueError: it is damaged or a fleet, nothing is said of its network, or its tensors do not
            fit; every one that differs is listed.
    """
    known, state = (_description(path / DESCRIPTION), {}) if path.is_dir() else _header(path)
    if not overrides.ema and not (known is None and any(map(is_averaged, state))):
        raise OverrideError("ema", "holds one set of weights only")
    if known is None:
        return read_saved(lay_flat(state), overrides, bare=True)
    if len(known.members) > 1:
        raise ValueError(
            f"is a fleet of {len(known.members)} networks, not one"
            "\n  fix: export one of its students"
        )
    (member,) = known.members
    if path.is_dir():
        state = _header(path / member.file)[1]
    spec = overrides.apply(member.network, known.image)
    network = build_to_fill(spec, known.image)
    how = overrides.starting(member.flow or Parameterisation(t_start=member.t_start))
    read = TeacherFile(spec, known.image, how, rename(state, same_names(network), network))
    autoencoder = None
    if known.autoencoder is not None and path.is_dir():
        state = _header(path / AUTOENCODER_FILE)[1]
        with torch.device("meta"):
            made = known.autoencoder.build()
        autoencoder = AutoencoderFile(known.autoencoder, rename(state, same_names(made), made))
    return replace(
        read,
        label_counts=known.label_counts,
        one_step=member.flow is None,
        autoencoder=autoencoder,
    )


def open_model(path: Path, device: torch.device) -> Sampler:
    """The model of a folder or a file, frozen, ready to draw.

    Raises:
        ModelFolderError: it is not whole; every tensor that differs is named.
    """
    known = read_description(path)
    networks = []
    for member in known.members:
        network = member.network.build(known.image)
        _load(network, path / member.file if path.is_dir() else path)
        network.eval().requires_grad_(requires_grad=False)
        networks.append(choose_engine(device, "sampling").place(network, device))
    flow = flow_of(known, networks, device)
    if known.autoencoder is not None:
        decoder = known.autoencoder.build()
        _load(decoder, path / AUTOENCODER_FILE)
        flow.autoencoder = decoder.eval().requires_grad_(requires_grad=False).to(device)
    return Sampler(flow, known.solver, known.label_counts, device)


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
        weights = _header(path)[1]
    except ValueError as error:
        what = str(error).partition("\n")[0]
        raise ModelFolderError(f"{path}: cannot be read: it {what}\n  fix: {fix}") from error
    wrong = differences(weights, same_names(network), network)
    if wrong:
        raise ModelFolderError(
            f"{path}: does not fit the network of {DESCRIPTION}: {', '.join(wrong)}\n  fix: {fix}"
        )
    network.load_state_dict(weights)


class LoadedGenerator:
    """A model from a folder: images by number and seed, the same as `slimctl sample` draws."""

    def __init__(self, description: ModelDescription, sampler: Sampler) -> None:
        self.description = description
        self.sampler = sampler

    def __call__(
        self,
        n: int,
        *,
        label: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 256,
    ) -> NDArray[np.uint8]:
        """Draws images.

        Args:
            n: how many.
            label: class of every image; None = the data's mix.
            seed: of noise and labels; image i of a seed is the same whatever n is.
            first: number of the first image.
            batch_size: images made at once; changes memory and time only.

        Returns:
            uint8 (n, H, W, C).

        Raises:
            ValueError: n or batch_size is below 1, or there is no such class.
        """
        known = self.sampler.classes()
        if n < 1 or batch_size < 1:
            raise ValueError(f"n is {n} and batch_size {batch_size}: both must be at least 1")
        if label is not None and label not in known:
            listed = ", ".join(map(str, known)) if known else "none: it is unconditional"
            raise ValueError(f"there is no class {label}; the classes are {listed}")
        drawn = self.sampler.draw(seed, n, batch_size, first, label)
        pixels = torch.cat([to_uint8(one.images).cpu() for one in drawn])
        made: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return made


def load_generator(path: str | Path, device: str = "cpu") -> LoadedGenerator:
    """Opens a folder that `slimctl export MODEL --to safetensors` made, or a file of `save_flow`.

    Needs torch, numpy, safetensors and pydantic, and of this project only the package `models`.

    Args:
        path: folder with `model.json` and its weights, or the file.
        device: where to compute: `cpu`, `cuda`, ...

    Raises:
        ModelFolderError: it holds no whole model; says what is wrong with it.
    """
    path = Path(path)
    return LoadedGenerator(read_description(path), open_model(path, torch.device(device)))
