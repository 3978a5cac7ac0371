"""Reads files of torch.save without running anything from them.

Their pickles are read through first, within the limits of every pickle here, and torch's own
restricted loader then builds the tensors. Whatever else they name becomes a stand-in that forgets
what it is given, unless it acts on the machine: then the file is refused.
"""

import io
import warnings
import zipfile
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from slimctl.models.checkpoints.inert_pickle import (
    INSTRUCTIONS,
    OBJECT_INSTRUCTIONS,
    Inert,
    acts,
    check_pickle,
)
from slimctl.models.shapes import Tensor

MOST_NAMES = 1000
"""Different things that a file may name beside its tensors."""
ALLOWED = INSTRUCTIONS | OBJECT_INSTRUCTIONS | {"BINPERSID"}
"""Instructions of its pickles; the last one stands for a storage."""
PICKLES = 5
"""At the start of a file from before torch wrote archives: two numbers, the machine, the content,
the names of the storages."""


class _Plain:
    """Stands for another kind of dictionary or list: an empty ordinary one is made."""

    made: type = dict

    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return cls.made()


def _stand_in(named: str) -> type:
    last = named.rpartition(".")[2].lower()
    if last == "deque" or last.endswith("dict"):
        return type("Plain", (_Plain,), {"made": list if last == "deque" else dict})
    return type("Inert", (Inert,), {"__slots__": (), "named": named})


def read_torch_file(path: Path) -> Any:
    """The content of a file; its tensors may lie in the file still.

    Raises:
        ValueError: the file is damaged, or names what acts on the machine.
    """
    is_zip = zipfile.is_zipfile(path)
    try:
        if is_zip:
            _require_plain(path)
        names = _names_in(path, is_zip=is_zip)
        _require_harmless(names)
        # What torch knows it takes itself, whatever stands in for it here.
        allowed: Any = [(_stand_in(".".join(name)), ".".join(name)) for name in names]
        with safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols, which end in an error here
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _RefusedFileError as error:
        raise ValueError(str(error)) from error
    except Exception as error:
        # A damaged file can raise anything at all from torch's readers.
        reason = (str(error) or "no reason given").splitlines()[0]
        raise ValueError(
            f"is no readable checkpoint ({type(error).__name__}: {reason}); nothing was run"
            "\n  fix: fetch the file again, or save its state dictionary alone by torch.save"
        ) from error


class _RefusedFileError(Exception):
    """Why a file is not even tried."""


def _names_in(path: Path, *, is_zip: bool) -> list[tuple[str, str]]:
    """What the pickles of a file name (module, name), after their check."""
    found: dict[tuple[str, str], None] = {}
    with path.open("rb") as file:
        if not is_zip:
            return names_in_old(file)
        with zipfile.ZipFile(file) as archive:
            inside = [name for name in archive.namelist() if name.endswith("data.pkl")]
            for name in inside:
                found |= dict.fromkeys(check_pickle(io.BytesIO(archive.read(name)), ALLOWED))
    return list(found)


def names_in_old(file: BufferedIOBase) -> list[tuple[str, str]]:
    """The same of a file from before torch wrote archives; raises as `check_pickle`."""
    names = (name for _ in range(PICKLES) for name in check_pickle(file, ALLOWED))
    return list(dict.fromkeys(names))


def _require_harmless(names: list[tuple[str, str]]) -> None:
    for number, (module, name) in enumerate(names):
        if acts(module, name) or number > MOST_NAMES:
            raise _RefusedFileError(
                f"is refused: its pickle would use {module}.{name}; nothing was run"
                "\n  fix: do not trust this file; fetch it from its authors"
            )


def _require_plain(path: Path) -> None:
    """Raises _RefusedFileError if an archive would unpack to more than it is long."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise _RefusedFileError(
            f"unpacks to {unpacked:,} bytes, more than it is long, which no file of torch.save does"
            "\n  fix: fetch the file again, from its authors"
        )


def require_own_bytes(state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ValueError if tensors claim more bytes than their file has."""
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    size = path.stat().st_size
    if claimed > 2 * size + 2**20:
        raise ValueError(
            f"has weights of {claimed:,} bytes in a file of {size:,}"
            "\n  fix: fetch the file again, from its authors"
        )
