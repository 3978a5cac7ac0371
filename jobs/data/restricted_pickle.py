"""Reads the pickles of CIFAR-10's python batches without running anything from them.

A pickle is a program that may call whatever it can name. Here it can name three things, all of
which are stand-ins made for this purpose: even `numpy.dtype` is not numpy's. They can be called
and filled with a state, and do no more than remember it; the arrays are built from it afterwards,
from raw bytes. Before that the program is read through, so that one which uses other instructions,
or would fill the memory with an empty table, is not even begun.
"""

import pickle
import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jobs.base.errors import UserError

# fmt: off
INSTRUCTIONS = frozenset({
    "PROTO", "FRAME", "MARK", "STOP",
    "NONE", "NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})
# fmt: on
"""Instructions that a pickle may use: plain values, containers, and calls of what it may name."""
STORES = ("PUT", "BINPUT", "LONG_BINPUT")
"""Those that put a value into the numbered table."""
UNSIGNED_BYTE = ("u1", b"u1", "|u1", b"|u1")
"""Names of the only element type that an array may have."""


class ArrayRecord:
    """What a pickle says about an array."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[np.uint8]:
        """The array itself.

        Raises:
            TypeError: the record is not of an array of unsigned bytes.
            ValueError: the record contradicts itself.
        """
        _, shape, dtype, in_fortran_order, data = self._state
        if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes):
            raise TypeError("an array is not made of unsigned bytes")
        flat: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
        return flat.reshape(tuple(shape), order="F" if in_fortran_order else "C")


class DtypeRecord:
    """The element type `unsigned byte`."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Forgets byte order and alignment: a byte has none."""


class _NewArray:
    """Stands for numpy's `_reconstruct`. Without slots, a pickle cannot change it."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> ArrayRecord:
        return ArrayRecord()


class _NewDtype:
    """Stands for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, name: Any, *arguments: Any) -> DtypeRecord:
        if name not in UNSIGNED_BYTE:
            kind = name if isinstance(name, str | bytes) else type(name)
            raise ValueError(f"an array of type {kind!r}, not of unsigned bytes")
        return DtypeRecord()


ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy._core.multiarray", "_reconstruct"): _NewArray(),
    ("numpy", "dtype"): _NewDtype(),
    ("numpy", "ndarray"): "ndarray",
}
"""What a pickle may name (module, name), and what it gets instead."""


class _RefusedError(Exception):
    """A pickle names something that it may not use."""


def _check_instructions(file: IO[bytes]) -> None:
    """Reads the program through without running it, and goes back to its start."""
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if instruction.name not in INSTRUCTIONS:
            raise _RefusedError(f"{instruction.name} {argument or ''}".rstrip())
        # The unpickler makes room for every number up to this one; honest ones count upwards.
        if instruction.name in STORES and int(argument or 0) > count:
            raise ValueError(f"entry {argument} of a table of {count}")
    file.seek(0)


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_pickle(path: Path) -> Any:
    """Reads plain values, containers and `ArrayRecord`s; Python 2's strings become bytes.

    Raises:
        UserError: the file is no such pickle, or names anything but an array of bytes.
    """
    try:
        with path.open("rb") as file:
            _check_instructions(file)
            return _RestrictedUnpickler(file, encoding="bytes").load()
    except _RefusedError as error:
        raise UserError(
            str(path),
            f"the pickle would use {error}, which no batch of CIFAR-10 does; it was not run",
            "do not trust this file; fetch the archive from its authors",
        ) from error
    except Exception as error:
        # A damaged pickle can raise anything at all from the stand-ins and the unpickler.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            str(path), f"is no readable pickle ({reason})", "fetch the archive again"
        ) from error
