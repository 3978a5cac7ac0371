"""Where the images of an archive are: found once, so that any of them can be read by itself.

An archive is never unpacked: its names are names and nothing is written to them, and those that
would lead out of a folder are refused all the same, since the archive is not what it should be.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import Item
from slimctl.jobs.data.random_access import RandomAccess

ENCODED_LIMIT = 256 * 2**20
"""Bytes of the largest file of an image that is read, encoded or compressed."""
TEXT_LIMIT = 64 * 2**20
"""Bytes of the largest JSON text that is read: what Python makes of one takes up to twenty times
as much."""


@dataclass(frozen=True)
class Index:
    """The images of one file, in their order."""

    names: tuple[str, ...]
    """What each is called in it."""
    places: NDArray[np.int64]
    """(n, k), where its bytes are, as the format's `read` understands it."""
    labels: tuple[Any, ...] | None = None
    """Number or word of each one's class, None where it has none; None = no labels at all."""

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Member:
    """An image in a file, not yet read. Called, it is."""

    file: RandomAccess
    read: Callable[..., bytes]
    place: tuple[int, ...]

    def __call__(self) -> bytes:
        """The encoded image.

        Raises:
            ValueError, zlib.error, OSError: it is damaged.
        """
        return self.read(self.file, *self.place)


def members(
    file: RandomAccess, name: str, index: Index, rows: range, read: Callable[..., bytes]
) -> Iterator[Item]:
    """The images of some rows of an index, to be read when they are decoded.

    Args:
        file: open until the last of them is read.
        name: of the file, for errors.
        index: of the file.
        rows: which of them.
        read: (file, *place) -> bytes.
    """
    for row in rows:
        place = tuple(index.places[row].tolist())
        yield Item(f"{name}: {index.names[row]}", Member(file, read, place))


def check_member_name(name: str, where: str) -> str:
    """The name of a member of an archive.

    Raises:
        UserError: unpacked, it would lie outside the folder.
    """
    plain = name.replace("\\", "/")
    leaves = plain[:1] == "/" or plain[1:3] == ":/" or (".." in plain and ".." in plain.split("/"))
    if leaves or "\0" in name:
        what = f"has a member called {name[:200]!r}, which would lie outside of it"
        raise UserError(where, what, "do not trust this archive; fetch or write it again")
    return name


def label_of_json(text: bytes, names: tuple[str, ...]) -> Any:
    """The first of some fields of a JSON mapping: a number or a word; None if there is none.

    Raises:
        ValueError: it is no JSON mapping, or the field is neither.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("JSON that is no mapping")  # noqa: TRY004
    value = next((content[name] for name in names if name in content), None)
    if not isinstance(value, int | float | str | None) or isinstance(value, bool):
        raise ValueError("a label that is neither a number nor a word")  # noqa: TRY004
    return value
