"""Reads pickles of plain values and arrays (CIFAR's batches, EDM2's statistics); runs nothing.

A pickle is a program that may call whatever it can name. Here it can name four things, all of
which are stand-ins made for this purpose: even `numpy.dtype` is not numpy's. They can be called
and filled with a state, and do no more than remember it; the arrays are built from it afterwards,
from raw bytes. Its instructions and its size are checked before that.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError
from slimctl.models.checkpoints.inert_pickle import Function, RefusedError, load_inert

ELEMENTS: dict[str, np.dtype[Any]] = {
    "u1": np.dtype("u1"),
    "f4": np.dtype("f4"),
    "f8": np.dtype("f8"),
}
"""Element types that an array may have: bytes, and floating-point numbers of 32 and 64 bits."""
ORDERS: dict[str | bytes, Literal["<", ">", "="]] = {"<": "<", ">": ">", "=": "=", "|": "="}
ORDERS |= {order.encode(): meaning for order, meaning in ORDERS.items() if isinstance(order, str)}
"""Byte orders as numpy and Python 2 write them; a byte has none."""


class ArrayRecord:
    """What a pickle says about an array."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def array(self) -> NDArray[Any]:
        """The array itself.

        Raises:
            TypeError: the record is not of an array of the types that are allowed.
            ValueError: the record contradicts itself.
        """
        _, shape, dtype, in_fortran_order, data = self._state
        if not isinstance(dtype, DtypeRecord) or not isinstance(data, bytes):
            raise TypeError("an array is not made of numbers")
        flat: NDArray[Any] = np.frombuffer(data, dtype.dtype)
        return flat.reshape(tuple(shape), order="F" if in_fortran_order else "C")


class DtypeRecord:
    """An element type."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order, and forgets the alignment."""
        order = state[1]
        if order not in ORDERS:
            raise ValueError("an unknown byte order")
        self.dtype = self.dtype.newbyteorder(ORDERS[order])


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> ArrayRecord:
    """What protocol 5 calls."""
    record = ArrayRecord()
    raw = bytes(data) if isinstance(data, bytearray) else data
    record.__setstate__((1, shape, dtype, order in ("F", b"F"), raw))
    return record


def _new_dtype(name: Any, *_: Any) -> DtypeRecord:
    text = name.decode(errors="replace") if isinstance(name, bytes) else name
    known = ELEMENTS.get(text.lstrip("|<>=")) if isinstance(text, str) else None
    if known is None:
        kind = name if isinstance(name, str | bytes) else type(name)
        raise ValueError(f"an array of type {kind!r}, not of bytes or floats")
    return DtypeRecord(known)


_NEW_ARRAY = Function(lambda *_: ArrayRecord())
_FROM_BUFFER = Function(_from_buffer)
ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _NEW_ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _NEW_ARRAY,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy", "dtype"): Function(_new_dtype),
    ("numpy", "ndarray"): "ndarray",
}
"""What a pickle may name (module, name), and what it gets instead."""


def _find(module: str, name: str) -> object:
    try:
        return ALLOWED[module, name]
    except KeyError:
        raise RefusedError(f"{module}.{name}") from None


def read_pickle(path: Path, kind: str = "batch of CIFAR") -> Any:
    """Reads plain values, containers and `ArrayRecord`s; Python 2's strings become bytes.

    Raises:
        UserError: the file is no such pickle, or names anything but arrays.
    """
    try:
        with path.open("rb") as file:
            return load_inert(file, _find, encoding="bytes")
    except RefusedError as error:
        raise UserError(
            str(path),
            f"the pickle would use {error}, which no {kind} does; it was not run",
            "do not trust this file; fetch it from its authors",
        ) from error
    except Exception as error:
        # A damaged pickle can raise anything at all from the stand-ins and the unpickler.
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            str(path), f"is no readable pickle ({reason})", "fetch the file again"
        ) from error
