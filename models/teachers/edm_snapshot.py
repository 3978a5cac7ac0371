"""Reads a network snapshot as NVlabs/edm writes it: a pickle, of which only `ema` is looked at."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from models.flows.edm import EDMFlow
from models.networks.adm import edm_weights as adm
from models.networks.song_unet import edm_weights as song_unet
from models.shapes import Tensor
from models.spec import ImageShape
from models.teachers.architecture import Overrides, filled
from models.teachers.restricted_pickle import ObjectNote, read_pickle, read_tensors

PRECONDITIONING = "EDMPrecond"
"""The only published preconditioning that an `EDMFlow` has."""


class _Snapshot(NamedTuple):
    wrapper: Mapping[str, Any]
    """Attributes of the preconditioning around the network."""
    class_name: str
    """Published class of the network."""
    state: dict[str, Tensor]


def read_edm_snapshot(path: Path, overrides: Overrides) -> EDMFlow:
    """The denoiser of a snapshot as a flow, frozen, in evaluation mode.

    Raises:
        ValueError: the file is damaged or names what it may not, holds another kind of network, or
            its tensors do not fit; every one that differs is listed.
    """
    if not overrides.ema:
        raise ValueError("holds averaged weights only\n  fix: leave out ema")
    snapshot = _load(path)
    network, image = NETWORKS[snapshot.class_name](snapshot.state, overrides)
    levels = {
        name: float(value)
        for name, value in snapshot.wrapper.items()
        if name == "sigma_data" and isinstance(value, (int, float))
    }
    if overrides.t_start is not None:
        levels["sigma_max"] = _sigma(overrides.t_start)
    return EDMFlow(network, image, **levels)


def _load(path: Path) -> _Snapshot:
    """What is wanted of a snapshot; its bytes are let go of here."""
    content = read_pickle(path)
    wrapper = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(wrapper, ObjectNote):
        raise ValueError(  # noqa: TRY004
            "has no network under `ema`\n  fix: give a network snapshot of EDM (network-*.pkl)"
        )
    if wrapper.class_name != PRECONDITIONING:
        raise ValueError(
            f"is preconditioned by {wrapper.class_name}, which this program does not have"
            f"\n  fix: give a network that was trained with {PRECONDITIONING}"
        )
    network = wrapper.attributes().get("_modules", {}).get("model")
    name = network.class_name if isinstance(network, ObjectNote) else None
    if name not in NETWORKS:
        raise ValueError(
            f"holds a network of class {name}, which this program does not have"
            f"\n  fix: give one of class {' or '.join(map(str, NETWORKS))}"
        )
    plain = {key: value for key, value in wrapper.attributes().items() if key != "_modules"}
    return _Snapshot(plain, str(name), dict(read_tensors(network)))


def _song_unet(state: Mapping[str, Tensor], overrides: Overrides) -> tuple[nn.Module, ImageShape]:
    spec, image = song_unet.read_edm(state)
    with torch.device("meta"):
        network = overrides.apply(spec, image).build(image)
    return filled(network, song_unet.from_edm(state, network, image.size)), image


def _adm(state: Mapping[str, Tensor], overrides: Overrides) -> tuple[nn.Module, ImageShape]:
    spec, image = adm.read_edm(state, time_scale=1.0)
    with torch.device("meta"):
        network = overrides.apply(spec, image).build(image)
    return filled(network, adm.from_edm(state, network, image.size)), image


def _sigma(t_start: float) -> float:
    if not 0.0 < t_start < 1.0:
        raise ValueError(
            f"holds a denoiser, which cannot start at t = {t_start}\n  fix: give 0 < t_start < 1"
        )
    return (1.0 - t_start) / t_start


NETWORKS: Mapping[
    object, Callable[[Mapping[str, Tensor], Overrides], tuple[nn.Module, ImageShape]]
] = {"SongUNet": _song_unet, "DhariwalUNet": _adm}
"""Published class -> how it is read: DDPM++ and NCSN++, ADM."""
