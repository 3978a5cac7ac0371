"""Reads the pickles of CIFAR's python batches without running anything from them.

A pickle is a program that may call whatever it can name. Here it can name three things, all of
which are stand-ins made for this purpose: even `numpy.dtype` is not numpy's. They can be called
and filled with a state, and do no more than remember it; the arrays are built from it afterwards,
from raw bytes. Its instructions and its size are checked by `models.inert_pickle` before that.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.base.errors import UserError
from models.inert_pickle import RefusedError, load_inert

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


def _find(module: str, name: str) -> object:
    try:
        return ALLOWED[module, name]
    except KeyError:
        raise RefusedError(f"{module}.{name}") from None


def read_pickle(path: Path) -> Any:
    """Reads plain values, containers and `ArrayRecord`s; Python 2's strings become bytes.

    Raises:
        UserError: the file is no such pickle, or names anything but an array of bytes.
    """
    try:
        with path.open("rb") as file:
            return load_inert(file, _find, encoding="bytes")
    except RefusedError as error:
        raise UserError(
            str(path),
            f"the pickle would use {error}, which no batch of CIFAR does; it was not run",
            "do not trust this file; fetch the archive from its authors",
        ) from error
    except Exception as error:
        # A damaged pickle can raise anything at all from the stand-ins and the unpickler.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            str(path), f"is no readable pickle ({reason})", "fetch the archive again"
        ) from error
