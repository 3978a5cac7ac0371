"""Reads state dictionaries: of files of torch.save by anybody's trainer, and bare ones.

The names of the tensors tell the family: SlimFlow's and RectifiedFlow's NCSN++, an ADM or DDPM++ in
EDM's names, SiT's transformer, else the network that the caller describes (one of another package,
for example).
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch

from slimctl.models.checkpoints.inert_pickle import Inert
from slimctl.models.checkpoints.saved_weights import (
    Saved,
    Weights,
    chosen_weights,
    find_weights,
    lay_flat,
    of_family,
    of_names,
    usual_prefix,
)
from slimctl.models.checkpoints.sit import is_sit, read_sit
from slimctl.models.checkpoints.teacher import (
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.checkpoints.torch_file import read_torch_file, require_own_bytes
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation
from slimctl.models.networks import edm_weights as edm
from slimctl.models.networks.adm.network import ADM
from slimctl.models.networks.published_weights import (
    Source,
    rename,
    require_fit,
    same_names,
)
from slimctl.models.networks.song_unet import slimflow_weights as ncsnpp
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.song_unet.slimflow_weights import ImageSize, read_slimflow
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape


def read_plain_weights(saved: Saved, overrides: Overrides) -> TeacherFile:
    """The network that the caller describes, with the weights of a file.

    Raises:
        ValueError: the caller does not say enough, or the tensors do not fit; all are listed.
    """
    spec = overrides.spec
    if spec is None or overrides.size is None or overrides.image_channels is None:
        prefix = usual_prefix(saved.tensors)
        first = ", ".join(name.removeprefix(prefix) for name in list(saved.tensors)[:3])
        raise ValueError(
            f"does not say what network its tensors are of; the first are {first}"
            "\n  fix: give network (all of it, with its kind), size and image_channels, or a file "
            "of save_flow, SlimFlow, RectifiedFlow or EDM"
        )
    image = ImageShape(
        channels=overrides.image_channels, size=overrides.size, classes=overrides.classes or 0
    )
    network = build_to_fill(spec, image)
    weights = find_weights(saved, of_names(network.state_dict()))
    buffers = {name for name, _ in network.named_buffers()}
    state = chosen_weights(weights, overrides, buffers, may_lack=True)
    how = overrides.starting(overrides.stated())
    return TeacherFile(spec, image, how, rename(state, same_names(network), network))


T_START = 1e-3
"""Flow time at which the published networks start to be trained and sampled."""
FAMILY = re.compile(r"(^|(?<=\.))(all_modules\.\d+\.|enc\.\d+x\d+_|input_blocks\.\d+\.\d+\.)")
"""How the names begin that tell a family."""


class _Network(NamedTuple):
    """A network that is not yet filled."""

    spec: NetworkSpec
    module: torch.nn.Module
    image: ImageShape
    sources: Mapping[str, Source]
    size: ImageSize | None = None
    """How the size of the images is known, where no tensor tells it."""


def read_checkpoint(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a file of torch.save, with its averaged weights by default.

    Raises:
        ValueError: the file is damaged or names what it may not, holds no network of a known
            family, or its tensors do not fit; every one that differs is listed.
    """
    content = read_torch_file(path)
    if isinstance(content, Inert):
        raise ValueError(  # noqa: TRY004
            f"holds a whole object of class {content.named}, not its weights; nothing was run"
            "\n  fix: save its state dictionary where the class is known: "
            "torch.save(model.state_dict(), ...)"
        )
    if not isinstance(content, Mapping):
        raise ValueError(  # noqa: TRY004
            f"holds a {type(content).__name__}, not a checkpoint of SlimFlow"
            "\n  fix: give a file with `model` and `ema`"
        )
    saved = lay_flat(content)
    if not saved.tensors:
        has = saved.objects or tuple(map(str, content)) or ("nothing",)
        raise ValueError(
            f"has no weights under `model`; it has {', '.join(has)}"
            "\n  fix: give a checkpoint of SlimFlow or RectifiedFlow, or a state dictionary"
        )
    require_own_bytes(saved.tensors, path)
    read = read_saved(saved, overrides)
    if zipfile.is_zipfile(path):  # its tensors lie in the file: what is kept must not
        return replace(read, weights={name: own.clone() for name, own in read.weights.items()})
    return read


def read_saved(saved: Saved, overrides: Overrides, *, bare: bool = False) -> TeacherFile:
    """The network whose tensors are given.

    bare: whether one set of weights is all that such a file can have, averaged or not.

    Raises:
        ValueError: as `read_checkpoint`.
    """
    if is_sit(saved) and overrides.spec is None:
        return read_sit(saved, overrides)
    if not any(FAMILY.search(name) for name in saved.tensors):
        return read_plain_weights(saved, overrides)
    weights = find_weights(saved, of_family(FAMILY))
    if any(name.startswith("input_blocks.") for name in weights.names):
        if overrides.spec is not None:
            return read_plain_weights(saved, overrides)
        raise ValueError(
            "holds a network in the names of openai/guided-diffusion, which is not supported"
            "\n  fix: give a network of the same images from NVlabs/edm, such as "
            "edm-imagenet-64x64-cond-adm.pkl, or a UNet2DModel of diffusers"
        )
    network, states = _network(weights, overrides)
    require_fit(states.names, network.sources, network.module)
    chosen = chosen_weights(states, overrides, may_lack=bare)
    size = network.size
    return TeacherFile(
        network.spec,
        network.image,
        overrides.starting(_predicts(overrides)),
        rename(chosen, network.sources, network.module),
        assumed=size.words if size and size.is_certain else "",
        undecided=size.words if size and not size.is_certain else "",
    )


def _predicts(overrides: Overrides) -> Parameterisation:
    """A velocity, unless the caller knows better: such a file says nothing of it."""
    if overrides.prediction == "edm":
        overrides = replace(overrides, schedule=overrides.schedule or EDMSchedule())
    return overrides.stated(t_start=T_START)


def _time_scale(how: Parameterisation) -> float:
    """What a network multiplies its time by: SlimFlow's 999, unless the schedule has scaled it."""
    schedule = how.schedule
    unscaled = schedule.kind == "rectified" or getattr(schedule, "time_scale", None) == 1.0
    return 999.0 if unscaled else 1.0


def _network(weights: Weights, overrides: Overrides) -> tuple[_Network, Weights]:
    """The network that the names tell, and the weights without what is no parameter of it."""
    scale = _time_scale(_predicts(overrides))
    if any(name.startswith("all_modules.") for name in weights.names):
        states = weights.each(ncsnpp.parameters)
        return _ncsnpp(states.names, overrides, scale), states
    weights = weights.each(edm.mean_only)
    states = weights.each(edm.parameters)
    if any("_aux_conv." in name for name in states.names):
        # The filters, which are no parameters, tell how it resamples.
        return _ddpmpp(weights.names, overrides), states
    return _adm(states.names, overrides, scale), states


def _adm(state: Mapping[str, Tensor], overrides: Overrides, scale: float) -> _Network:
    spec, image = edm.read_adm(state, time_scale=scale)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    return _Network(spec, network, image, edm.sources(cast("ADM", network), image.size))


def _ddpmpp(state: Mapping[str, Tensor], overrides: Overrides) -> _Network:
    if overrides.prediction in (None, "velocity"):
        raise ValueError(
            "holds a DDPM++ or NCSN++ in EDM's names without saying what it predicts"
            "\n  fix: give prediction: edm; or prediction: noise with its schedule"
        )
    spec, image = edm.read_song_unet(state)
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    return _Network(spec, network, image, edm.sources(cast("SongUNet", network), image.size))


def _ncsnpp(state: Mapping[str, Tensor], overrides: Overrides, scale: float) -> _Network:
    given = None
    if "attention_resolutions" in overrides.network or overrides.spec is not None:
        given = overrides.network_of(SongUNetSpec(channels=64)).attention_resolutions
    spec, image, size = read_slimflow(state, overrides.size, given)
    spec = overrides.apply(spec.model_copy(update={"time_scale": scale}), image)
    network = build_to_fill(spec, image)
    sources = ncsnpp.sources(cast("SongUNet", network))
    return _Network(spec, network, image, sources, size)
