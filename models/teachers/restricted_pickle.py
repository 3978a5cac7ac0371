"""Reads the pickles that NVlabs/edm writes without running anything from them.

A pickle is a program that may call whatever it can name. Here it can name the few things in
`ALLOWED`, all of which are stand-ins made for this purpose: they note down what they are called
with and do no more, so that reading executes nothing, not even torch. The source code that a
snapshot carries is a string like any other. Tensors are built afterwards, from the notes of those
entries that are wanted; their bytes are files of torch.save, which its restricted loader reads.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from slimctl.models.inert_pickle import INSTRUCTIONS, OBJECT_INSTRUCTIONS, RefusedError, load_inert
from slimctl.models.shapes import Tensor
from slimctl.models.teachers.unwanted import is_harmless, what_to_do


class _Note:
    """What a pickle said about an object. Only its own maker can fill it in."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuses to be changed by the pickle."""
        raise TypeError(f"a {type(self).__name__} has no state to set")


class Inert(_Note):
    """Something that is read and never used: a random-number type, a learning rate."""

    __slots__ = ()

    def __new__(cls, *arguments: object, **named: object) -> Any:
        """Forgets what it is made of."""
        del arguments, named
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets the entry."""

    def extend(self, values: object) -> None:
        """Forgets the values."""

    append = add = extend


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
        numbers = self.storage.numbers()
        if math.prod(self.shape) > len(numbers):
            raise ValueError(f"a tensor of shape {self.shape} in {len(numbers):,} numbers")
        return numbers.as_strided(self.shape, self.stride, self.offset)


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


def _note_nothing(*arguments: object) -> object:
    del arguments
    return Inert()


def _plain_dict() -> dict[Any, Any]:
    return {}


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
