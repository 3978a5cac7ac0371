"""Reads the pickles that NVlabs/edm writes without running anything from them.

A pickle is a program that may call whatever it can name. Here it can name the few things in
`ALLOWED`, all of which are stand-ins made for this purpose: they note down what they are called
with and do no more, so that reading executes nothing, not even torch. The source code that a
snapshot carries is a string like any other. Tensors are built afterwards, from the notes of those
entries that are wanted; their bytes are files of torch.save, which its restricted loader reads.
"""

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from models.shapes import Tensor


class _Note:
    """What a pickle said about an object. Only its own maker can fill it in."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuses to be changed by the pickle."""
        raise TypeError(f"a {type(self).__name__} has no state to set")


class Inert(_Note):
    """Something that is read and never used: a random-number type, a learning rate."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""


class ObjectNote(_Note):
    """A module or another object that stores its attributes, not its class."""

    __slots__ = ("class_name", "state")

    def __init__(self, class_name: object = "", state: object = None) -> None:
        self.class_name = class_name
        self.state = state

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


class StorageNote(_Note):
    """The numbers of a tensor, as a file in memory."""

    __slots__ = ("data",)

    def __init__(self, data: object) -> None:
        self.data = data

    def numbers(self) -> Tensor:
        """All numbers, flat.

        Raises:
            TypeError: the bytes are those of something else.
            pickle.UnpicklingError: they name something that a storage does not need.
        """
        if not isinstance(self.data, bytes):
            raise TypeError("a storage is not made of bytes")
        storage = torch.load(io.BytesIO(self.data), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.storage.TypedStorage):
            raise TypeError(f"a {type(storage).__name__} stands where a storage should")
        return torch.empty(0, dtype=storage.dtype).set_(storage)


class TensorNote(_Note):
    """A tensor: where in a storage it lies."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage: object, offset: Any, shape: Any, stride: Any) -> None:
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.stride = stride

    def tensor(self) -> Tensor:
        """The tensor itself.

        Raises:
            TypeError: it has no storage, or as `StorageNote.numbers`.
            RuntimeError: it lies outside its storage.
        """
        if not isinstance(self.storage, StorageNote):
            raise TypeError("a tensor has no storage")
        return self.storage.numbers().as_strided(self.shape, self.stride, self.offset)


class _Function:
    """Stands for a function. Without slots, a pickle cannot change it."""

    __slots__ = ("_call",)
    _call: Callable[..., object]

    def __init__(self, call: Callable[..., object]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("a pickle cannot change what it may call")


def _note_object(meta: Any) -> ObjectNote:
    return ObjectNote(meta["class_name"], meta["state"])


def _note_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: object) -> TensorNote:
    del rest  # whether it wants gradients, and its hooks
    return TensorNote(storage, offset, shape, stride)


def _note_parameter(data: object, *rest: object) -> object:
    del rest  # whether it wants gradients, and its hooks
    return data


def _note_nothing(*arguments: object) -> Inert:
    del arguments
    return Inert()


def _plain_dict(*arguments: Any) -> dict[Any, Any]:
    return dict(*arguments)


ALLOWED: Mapping[tuple[str, str], object] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Function(_note_object),
    ("torch.nn.modules.container", "ModuleDict"): ContainerNote,
    ("torch.nn.modules.container", "ModuleList"): ContainerNote,
    ("torch._utils", "_rebuild_parameter"): _Function(_note_parameter),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_note_tensor),
    ("torch.storage", "_load_from_bytes"): _Function(StorageNote),
    ("dnnlib.util", "EasyDict"): DictNote,
    ("collections", "OrderedDict"): _Function(_plain_dict),
    ("builtins", "set"): _Function(_note_nothing),
    ("numpy.core.multiarray", "scalar"): _Function(_note_nothing),
    ("numpy._core.multiarray", "scalar"): _Function(_note_nothing),
    ("numpy", "dtype"): _Function(_note_nothing),
}
"""What a pickle may name (module, name), and what it gets instead."""


class RefusedError(ValueError):
    """A pickle names something that it may not use."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise RefusedError(
                f"its pickle would use {module}.{name}, which no snapshot of EDM does; nothing was "
                "run\n  fix: do not trust this file; fetch it from its authors"
            ) from None


def read_pickle(path: Path) -> object:
    """Reads plain values, containers and notes.

    Raises:
        RefusedError: the pickle names what is not in `ALLOWED`.
        ValueError: it is damaged, or calls what it may name in a way that makes no sense.
    """
    try:
        with path.open("rb") as file:
            return _RestrictedUnpickler(file).load()
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
        for name, tensor in _tensor_notes(note, ""):
            yield name, tensor.tensor()
    except Exception as error:
        # As above, and whatever torch's restricted loader refuses with.
        raise unreadable(error) from error


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
