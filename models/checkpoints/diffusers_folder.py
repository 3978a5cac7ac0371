"""Reads a folder that diffusers wrote: a `UNet2DModel` and the config of its scheduler.

Pipelines that make latents are read by `pipeline_folder`, with what is here.

The network is run as the package runs it. A scheduler of the DDPM family counts steps 0, 1, ...,
K - 1 of a table of noise levels sigma_i; our time t stands for sigma = (1 - t) / t, and the network
is given the step whose level that is, with a broken part that is linear in ln(sigma) between two
steps. A flow-matching scheduler tells 1000 (1 - t) for the point (1 - t) x0 + t x1.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from slimctl.models.checkpoints.paths import (
    AVERAGED,
    CONFIG,
    EMA,
    INDEX,
    LATENT_PARTS,
    NON_EMA,
    PLAIN,
    SCHEDULER,
    WEIGHTS,
    chosen_variant,
    diffusers_scheduler,
    diffusers_unet,
    weight_files,
    weight_variants,
)
from slimctl.models.checkpoints.teacher import (
    OverrideError,
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.checkpoints.torch_file import read_torch_file, require_own_bytes
from slimctl.models.flows.parameterisation import (
    DiscreteVPSchedule,
    EDMSchedule,
    Parameterisation,
    Prediction,
)
from slimctl.models.networks.diffusers_unet.spec import DiffusersUNetSpec
from slimctl.models.networks.published_weights import Source, rename
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
}
"""The package's name of what a network predicts -> ours."""
DDPM_FAMILY = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDPM", "DDIM", "DDIMInverse", "PNDM", "DPMSolverMultistep", "DPMSolverSinglestep",
        "UniPCMultistep", "DEISMultistep", "EulerDiscrete", "EulerAncestralDiscrete",
        "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DDPMParallel",
        "DDIMParallel", "LCM", "TCD",
    )
)  # fmt: skip
"""Schedulers whose networks are trained on DDPM's table; they differ in how they sample."""
EMA_FIELDS = frozenset({
    "decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma",
    "power",
})  # fmt: skip
"""What the package writes into the config of averaged weights."""
OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
PRESENT = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The package's old name of a layer of attention -> today's."""
FLOW_FAMILY = frozenset({"FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"})


def read_diffusers(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a folder.

    Raises:
        ValueError: a file is missing or damaged, the network or its scheduler are of a kind that
            is not known, the package is not installed, or tensors do not fit; all are listed.
    """
    if any((path / part).is_dir() for part in LATENT_PARTS):
        raise ValueError(f"makes latents, but has no {INDEX}\n  fix: copy the whole folder")
    unet = diffusers_unet(path, ema=overrides.ema) or path
    config = read_json(unet / CONFIG)
    variant = chosen_variant(unet, ema=overrides.ema, variant=overrides.variant)
    _require_choice(path, unet, config, variant, overrides)
    config = {name: value for name, value in config.items() if name not in EMA_FIELDS}
    image = _image(config, overrides)
    scheduler = diffusers_scheduler(path)
    how, spec = _how(read_json(scheduler) if scheduler else None, config, overrides)
    overrides.require_image(image)
    spec = overrides.network_of(spec)
    network = build_to_fill(spec, image)
    sources = {name: Source((name.removeprefix("unet."),)) for name in network.state_dict()}
    weights = rename(read_weights(unet, variant), sources, network)
    return TeacherFile(spec, image, overrides.starting(how), weights)


def read_json(path: Path) -> Mapping[str, Any]:
    """The mapping in a file; raises ValueError if it holds none."""
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path.name} is no readable JSON ({error})\n  fix: copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is no mapping\n  fix: copy it again")  # noqa: TRY004
    return content


def _image(config: Mapping[str, Any], overrides: Overrides) -> ImageShape:
    """What the config says of the images, and the caller of what it leaves open."""
    name = config.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise ValueError(
            f"holds a network of class {name}, which this program does not have"
            "\n  fix: give a UNet2DModel"
        )
    kind = config.get("class_embed_type")
    if kind is not None:
        raise ValueError(
            f"embeds its classes by class_embed_type {kind}, which this program does not have"
            "\n  fix: give a model with num_class_embeds, or without classes"
        )
    size = config.get("sample_size")
    sizes = set(size) if isinstance(size, list) else {size}
    size = sizes.pop() if len(sizes) == 1 else None
    size = overrides.size if size is None else size
    if not isinstance(size, int) or size < 1:
        raise ValueError("does not say the size of its images\n  fix: give size")
    embeds = config.get("num_class_embeds") or 0
    classes = embeds if overrides.classes is None else min(overrides.classes, embeds)
    return ImageShape(channels=config.get("in_channels", 3), size=size, classes=classes)


def _how(
    scheduler: Mapping[str, Any] | None, config: Mapping[str, Any], overrides: Overrides
) -> tuple[Parameterisation, DiffusersUNetSpec]:
    """What the network predicts, and how it is called."""
    if scheduler is None:
        return _how_given(config, overrides)
    read = read_scheduler(scheduler)
    spec = DiffusersUNetSpec(
        config=dict(config), convention=read.convention, timesteps=read.timesteps
    )
    return read.how, spec


class Scheduled(NamedTuple):
    """What the config of a scheduler says of the network."""

    how: Parameterisation
    convention: Literal["flow", "timestep", "instaflow"]
    timesteps: float


def read_scheduler(scheduler: Mapping[str, Any]) -> Scheduled:
    """What a network predicts and how it is called.

    Raises:
        ValueError: the scheduler, or what is predicted, is not known.
    """
    name = scheduler.get("_class_name")
    if name in FLOW_FAMILY:
        steps = float(scheduler.get("num_train_timesteps", 1000))
        return Scheduled(Parameterisation(), "flow", steps)
    if name not in DDPM_FAMILY:
        known = "DDPMScheduler and its family, FlowMatchEulerDiscreteScheduler"
        raise ValueError(
            f"has a {name}, which this program does not know\n  fix: give a model of {known}"
        )
    predicted = scheduler.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise ValueError(
            f"predicts {predicted}, which this program does not know"
            f"\n  fix: give a model whose prediction_type is one of {', '.join(PREDICTIONS)}"
        )
    how = Parameterisation(prediction=PREDICTIONS[predicted], schedule=_table(scheduler))
    return Scheduled(how, "timestep", 1000.0)


def _how_given(
    config: Mapping[str, Any], overrides: Overrides
) -> tuple[Parameterisation, DiffusersUNetSpec]:
    """The same where there is no scheduler and the caller says it."""
    if overrides.prediction is None:
        raise ValueError(
            f"has no {SCHEDULER}, so what its network predicts is not known"
            "\n  fix: give prediction and schedule, such as prediction: noise, schedule: "
            "{kind: vp_discrete, betas: linear}; or the folder of the whole pipeline"
        )
    if overrides.prediction == "velocity":
        return Parameterisation(), DiffusersUNetSpec(config=dict(config))
    usual = EDMSchedule() if overrides.prediction == "edm" else DiscreteVPSchedule()
    schedule = overrides.schedule or usual
    how = Parameterisation(prediction=overrides.prediction, schedule=schedule)
    return how, DiffusersUNetSpec(config=dict(config), convention="timestep")


def _table(scheduler: Mapping[str, Any]) -> DiscreteVPSchedule:
    if scheduler.get("trained_betas") is not None:
        raise ValueError(
            "has a table of its own, trained_betas, which this program does not read"
            "\n  fix: give a model with a beta_schedule"
        )
    named = {
        "betas": "beta_schedule",
        "beta_start": "beta_start",
        "beta_end": "beta_end",
        "steps": "num_train_timesteps",
        "zero_terminal": "rescale_betas_zero_snr",
    }
    fields = {ours: scheduler[theirs] for ours, theirs in named.items() if theirs in scheduler}
    try:
        return DiscreteVPSchedule.model_validate(fields)
    except ValidationError as error:
        mistakes = [f"{named[str(each['loc'][0])]} {each['input']!r}" for each in error.errors()]
        raise ValueError(
            f"has a scheduler with {', '.join(mistakes)}, which this program does not know"
            "\n  fix: give a model whose beta_schedule is linear, scaled_linear or "
            "squaredcos_cap_v2"
        ) from error


def _require_choice(
    path: Path,
    unet: Path,
    config: Mapping[str, Any],
    variant: str | None,
    overrides: Overrides,
) -> None:
    """Raises ValueError unless the weights are the averages, or not, as the caller wants."""
    averaged = unet.name == AVERAGED or not EMA_FIELDS.isdisjoint(config) or variant == EMA
    if overrides.ema:
        if overrides.variant is None and weight_variants(unet) == {NON_EMA}:
            raise ValueError("holds no averaged weights\n  fix: give ema: false")
        if path == unet and unet.name == PLAIN and (unet.parent / AVERAGED / CONFIG).is_file():
            raise ValueError(
                f"holds the weights without averaging; their averages lie in {AVERAGED} beside it"
                f"\n  fix: give {unet.parent}, or ema: false"
            )
        return
    if averaged:
        plain = unet.parent / PLAIN
        if not (plain / CONFIG).is_file():
            raise OverrideError("ema", "holds averaged weights only")
        raise ValueError(f"holds averaged weights only\n  fix: give {plain}")
    if variant != NON_EMA and not (unet.parent / AVERAGED / CONFIG).is_file():
        raise OverrideError("ema", "holds one set of weights only")


def _present_name(name: str) -> str:
    """The name in today's network: attention had others until version 0.15 of the package."""
    found = OLD_ATTENTION.fullmatch(name)
    return f"{found[1]}.{PRESENT[found[2]]}.{found[3]}" if found else name


def read_weights(folder: Path, variant: str | None) -> dict[str, Tensor]:
    """The tensors of a folder, under today's names.

    Raises:
        ValueError: files are missing or damaged.
    """
    files = () if variant is None else weight_files(folder, variant)
    if not files:
        variants = sorted(weight_variants(folder) - {""})
        beside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
        fix = f"give variant: one of {', '.join(variants)}" if variants else "copy it again"
        raise ValueError(f"has no {WEIGHTS[0]}; {folder.name} holds {beside}\n  fix: {fix}")
    shards = [file for file in files if file.suffix != ".json"]
    missing = [file.name for file in shards if not file.is_file()]
    if missing:
        raise ValueError(
            f"lacks {', '.join(missing)}, which {files[0].name} names\n  fix: copy the whole folder"
        )
    every = (item for file in shards for item in _tensors(file).items())
    return {_present_name(name): value for name, value in every}


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of one file, which do not lie in it."""
    try:
        if file.suffix == ".safetensors":
            return {name: value.clone() for name, value in load_file(file).items()}
        state = read_torch_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file.name} is no readable safetensors ({error})\n  fix: copy it again"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file.name} {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{file.name} holds no weights\n  fix: copy it again")
    require_own_bytes(state, file)
    return {name: value.clone() for name, value in state.items()}
