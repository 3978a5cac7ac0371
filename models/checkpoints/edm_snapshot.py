"""Reads a network snapshot as NVlabs/edm writes it: a pickle, of which only `ema` is looked at.

What the pickle may name are the few things in `ALLOWED`, all of them stand-ins that note down what
they are called with and do no more, so that reading executes nothing, not even torch; the source
code that a snapshot carries is a string like any other. Tensors are built afterwards, from the
notes of those entries that are wanted; their bytes are files of torch.save, for its loader.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from slimctl.models.checkpoints.inert_pickle import (
    INSTRUCTIONS,
    OBJECT_INSTRUCTIONS,
    Function,
    Inert,
    RefusedError,
    is_harmless,
    load_inert,
    what_to_do,
)
from slimctl.models.checkpoints.teacher import (
    OverrideError,
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.checkpoints.torch_file import names_in_old
from slimctl.models.flows.parameterisation import (
    DiscreteVPSchedule,
    EDMSchedule,
    LinearVPSchedule,
    Parameterisation,
    VESchedule,
)
from slimctl.models.networks.adm.network import ADM
from slimctl.models.networks.edm_weights import from_edm, mean_only, read_adm, read_song_unet
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape


class _Note:
    """What a pickle said about an object. Only its own maker can fill it in."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuses to be changed by the pickle."""
        raise TypeError(f"a {type(self).__name__} has no state to set")


@dataclass(slots=True, eq=False)
class ObjectNote(_Note):
    """A module or another object that stores its attributes, not its class."""

    class_name: object = ""
    state: object = None

    def attributes(self) -> Mapping[str, Any]:
        """Name -> value; empty where the pickle gave none."""
        return self.state if isinstance(self.state, dict) else {}


class ContainerNote(ObjectNote):
    """One of torch's own containers of modules."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Notes the container's attributes."""
        self.state = state


class DictNote(dict[Any, Any]):
    """EDM's dictionary whose entries are attributes as well: here they are not."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuses to be changed by the pickle otherwise than by entries."""
        raise TypeError("a dictionary has no state to set")


@dataclass(slots=True, eq=False)
class StorageNote(_Note):
    """The numbers of a tensor, as a file in memory."""

    data: object

    def numbers(self) -> Tensor:
        """All numbers, flat.

        Raises:
            TypeError: the bytes are those of something else.
            pickle.UnpicklingError: they name something that a storage does not need.
        """
        if not isinstance(self.data, bytes):
            raise TypeError("a storage is not made of bytes")
        file = io.BytesIO(self.data)
        names_in_old(file)  # within the limits of every pickle here
        file.seek(0)
        storage = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.storage.TypedStorage):
            raise TypeError(f"a {type(storage).__name__} stands where a storage should")
        return torch.empty(0, dtype=storage.dtype).set_(storage)


@dataclass(slots=True, eq=False)
class TensorNote(_Note):
    """A tensor: where in a storage it lies."""

    storage: object
    offset: Any
    shape: Any
    stride: Any

    def tensor(self) -> Tensor:
        """The tensor itself.

        Raises:
            TypeError: it has no storage, or as `StorageNote.numbers`.
            RuntimeError: it lies outside its storage.
        """
        if not isinstance(self.storage, StorageNote):
            raise TypeError("a tensor has no storage")
        numbers = self.storage.numbers()
        if math.prod(self.shape) > len(numbers):
            raise ValueError(f"a tensor of shape {self.shape} in {len(numbers):,} numbers")
        return numbers.as_strided(self.shape, self.stride, self.offset)


ALLOWED: Mapping[tuple[str, str], object] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Function(
        lambda meta: ObjectNote(meta["class_name"], meta["state"])
    ),
    ("torch.nn.modules.container", "ModuleDict"): ContainerNote,
    ("torch.nn.modules.container", "ModuleList"): ContainerNote,
    ("torch._utils", "_rebuild_parameter"): Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_tensor_v2"): Function(
        lambda storage, offset, shape, stride, *_: TensorNote(storage, offset, shape, stride)
    ),
    ("torch.storage", "_load_from_bytes"): Function(StorageNote),
    ("dnnlib.util", "EasyDict"): DictNote,
    ("collections", "OrderedDict"): Function(dict),
    ("builtins", "set"): Function(Inert),
}
"""What a pickle may name (module, name), and what it gets instead."""


def _find(module: str, name: str) -> object:
    """The stand-in of what a pickle names."""
    known = ALLOWED.get((module, name))
    if known is not None:
        return known
    if is_harmless(module, name):
        return Inert
    raise RefusedError(
        f"its pickle would use {module}.{name}, which no snapshot of EDM does; nothing was run"
        f"\n  fix: {what_to_do(module, name)}"
    )


def read_pickle(path: Path) -> object:
    """Reads plain values, containers and notes.

    Raises:
        RefusedError: the pickle names what is not in `ALLOWED`.
        ValueError: it is damaged, or calls what it may name in a way that makes no sense.
    """
    try:
        with path.open("rb") as file:
            return load_inert(file, _find, INSTRUCTIONS | OBJECT_INSTRUCTIONS)
    except RefusedError:
        raise
    except Exception as error:
        # A damaged pickle can raise anything at all from the unpickler and the stand-ins.
        raise unreadable(error) from error


def read_tensors(note: object) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a noted module, by their names in its state dictionary.

    Raises:
        ValueError: the notes are of no module, or a tensor is damaged.
    """
    try:
        found = list(_tensor_notes(note, ""))
        _require_own_bytes([tensor for _, tensor in found])
        for name, tensor in found:
            yield name, tensor.tensor()
    except Exception as error:
        # As above, and whatever torch's restricted loader refuses with.
        raise unreadable(error) from error


def _require_own_bytes(tensors: list[TensorNote]) -> None:
    """Raises ValueError if so many tensors lie in the same bytes that copies would fill the memory.

    Shared ones are read once for each tensor.
    """
    data = [tensor.storage.data for tensor in tensors if isinstance(tensor.storage, StorageNote)]
    sizes = [(id(each), len(each)) for each in data if isinstance(each, bytes)]
    if sum(size for _, size in sizes) > 2 * sum(size for _, size in set(sizes)) + 2**20:
        raise ValueError("many tensors lie in the same bytes")


def unreadable(error: Exception) -> ValueError:
    """The error to raise for one that a damaged or forged file caused."""
    reason = str(error).splitlines()[0] if str(error) else "no reason given"
    return ValueError(
        f"is no readable snapshot of EDM ({type(error).__name__}: {reason})"
        "\n  fix: fetch the file again, from its authors"
    )


def _tensor_notes(note: object, prefix: str) -> Iterator[tuple[str, TensorNote]]:
    if not isinstance(note, ObjectNote):
        raise TypeError(f"a {type(note).__name__} stands where a module should")
    attributes = note.attributes()
    for kind in ("_parameters", "_buffers"):
        for name, value in attributes.get(kind, {}).items():
            if isinstance(value, TensorNote):
                yield f"{prefix}{name}", value
            elif value is not None:
                raise TypeError(f"{prefix}{name} is no tensor but a {type(value).__name__}")
    for name, value in attributes.get("_modules", {}).items():
        if value is not None:
            yield from _tensor_notes(value, f"{prefix}{name}.")


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
        raise OverrideError("ema", "holds averaged weights only")
    snapshot = _load(path)
    how = overrides.starting(PRECONDITIONINGS[snapshot.precond](snapshot.attributes))
    state = mean_only(snapshot.state) if snapshot.precond == "iDDPMPrecond" else snapshot.state
    spec, image = NETWORKS[snapshot.class_name](state)
    spec = overrides.apply(spec, image)
    weights = from_edm(state, cast("SongUNet | ADM", build_to_fill(spec, image)), image.size)
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


Read = Callable[[Mapping[str, Tensor]], tuple[NetworkSpec, ImageShape]]
NETWORKS: Mapping[object, Read] = {
    "SongUNet": read_song_unet,
    "DhariwalUNet": partial(read_adm, time_scale=1.0),
}
"""Published class -> how its architecture is read: DDPM++ and NCSN++, ADM."""
