"""Reads a network snapshot as NVlabs/edm writes it: a pickle, of which only `ema` is looked at."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from slimctl.models.flows.parameterisation import (
    DiscreteVPSchedule,
    EDMSchedule,
    LinearVPSchedule,
    Parameterisation,
    VESchedule,
)
from slimctl.models.networks.adm import edm_weights as adm
from slimctl.models.networks.edm_layout import mean_only
from slimctl.models.networks.song_unet import edm_weights as song_unet
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape
from slimctl.models.teachers.architecture import Overrides
from slimctl.models.teachers.restricted_pickle import ObjectNote, read_pickle, read_tensors
from slimctl.models.teachers.teacher_file import TeacherFile, build_to_fill


class _Snapshot(NamedTuple):
    precond: str
    """Published class of the preconditioning around the network."""
    attributes: Mapping[str, float]
    """Its numbers."""
    class_name: str
    """Published class of the network."""
    state: dict[str, Tensor]


def read_edm_snapshot(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a snapshot.

    Raises:
        ValueError: the file is damaged or names what it may not, holds another kind of network, or
            its tensors do not fit; every one that differs is listed.
    """
    if not overrides.ema:
        raise ValueError("holds averaged weights only\n  fix: leave out ema")
    snapshot = _load(path)
    how = overrides.starting(PRECONDITIONINGS[snapshot.precond](snapshot.attributes))
    read, rename = NETWORKS[snapshot.class_name]
    state = mean_only(snapshot.state) if snapshot.precond == "iDDPMPrecond" else snapshot.state
    spec, image = read(state)
    spec = overrides.apply(spec, image)
    weights = rename(state, build_to_fill(spec, image), image.size)
    if snapshot.precond == "VEPrecond":  # it answers minus the noise
        weights |= {name: -weights[name] for name in ("head.weight", "head.bias")}
    return TeacherFile(spec, image, how, weights)


def _load(path: Path) -> _Snapshot:
    """What is wanted of a snapshot; its bytes are let go of here."""
    content = read_pickle(path)
    wrapper = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(wrapper, ObjectNote):
        raise ValueError(  # noqa: TRY004
            "has no network under `ema`\n  fix: give a network snapshot of EDM (network-*.pkl)"
        )
    if "unet" in wrapper.attributes().get("_modules", {}):
        raise ValueError(
            f"is a snapshot of EDM2 (class {wrapper.class_name}), which is not supported"
            "\n  fix: give a network of NVlabs/edm, such as edm-imagenet-64x64-cond-adm.pkl"
        )
    if wrapper.class_name not in PRECONDITIONINGS:
        raise ValueError(
            f"is preconditioned by {wrapper.class_name}, which this program does not have"
            f"\n  fix: give a network that was trained with {' or '.join(PRECONDITIONINGS)}"
        )
    network = wrapper.attributes().get("_modules", {}).get("model")
    name = network.class_name if isinstance(network, ObjectNote) else None
    if name not in NETWORKS:
        raise ValueError(
            f"holds a network of class {name}, which this program does not have"
            f"\n  fix: give one of class {' or '.join(map(str, NETWORKS))}"
        )
    numbers = {
        key: float(value)
        for key, value in wrapper.attributes().items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return _Snapshot(str(wrapper.class_name), numbers, str(name), dict(read_tensors(network)))


def _edm(numbers: Mapping[str, float]) -> Parameterisation:
    # Its own sigma_min and sigma_max are 0 and infinity: the range is the published sampler's.
    sigma_data = numbers.get("sigma_data", 0.5)
    return Parameterisation(prediction="edm", schedule=EDMSchedule(), sigma_data=sigma_data)


def _vp(numbers: Mapping[str, float]) -> Parameterisation:
    low = numbers.get("beta_min", 0.1)
    schedule = LinearVPSchedule(
        beta_min=low,
        beta_max=low + numbers.get("beta_d", 19.9),
        time_scale=numbers.get("M", 1000.0) - 1.0,
        epsilon=numbers.get("epsilon_t", 1e-5),
    )
    return Parameterisation(prediction="noise", schedule=schedule)


def _ve(numbers: Mapping[str, float]) -> Parameterisation:
    levels = {name: numbers[name] for name in ("sigma_min", "sigma_max") if name in numbers}
    return Parameterisation(prediction="noise", schedule=VESchedule(), **levels)


def _iddpm(numbers: Mapping[str, float]) -> Parameterisation:
    given = numbers.get("C_1", 0.001), numbers.get("C_2", 0.008)
    if given != (0.001, 0.008):
        raise ValueError(
            f"has a cosine schedule with C_1, C_2 = {given}, which this program does not have"
            "\n  fix: give a network with the published C_1 = 0.001 and C_2 = 0.008"
        )
    schedule = DiscreteVPSchedule(
        betas="squaredcos_cap_v2", steps=int(numbers.get("M", 1000)), between="nearest"
    )
    return Parameterisation(prediction="noise", schedule=schedule)


PRECONDITIONINGS: Mapping[str, Callable[[Mapping[str, float]], Parameterisation]] = {
    "EDMPrecond": _edm,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
}
"""Published class around a network -> what the network predicts (arXiv 2206.00364, table 1)."""


def _read_adm(state: Mapping[str, Tensor]) -> tuple[NetworkSpec, ImageShape]:
    return adm.read_edm(state, time_scale=1.0)


Read = Callable[[Mapping[str, Tensor]], tuple[NetworkSpec, ImageShape]]
Rename = Callable[[Mapping[str, Tensor], Any, int], dict[str, Tensor]]
NETWORKS: Mapping[object, tuple[Read, Rename]] = {
    "SongUNet": (song_unet.read_edm, song_unet.from_edm),
    "DhariwalUNet": (_read_adm, adm.from_edm),
}
"""Published class -> how its architecture and its weights are read: DDPM++ and NCSN++, ADM."""
