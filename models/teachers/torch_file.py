"""Reads files of torch.save without running anything from them.

torch's own restricted loader builds the tensors. Whatever else a file names becomes a stand-in that
forgets what it is given, unless it acts on the machine: then the file is refused.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.serialization import safe_globals

from slimctl.models.shapes import Tensor
from slimctl.models.teachers.unwanted import acts

MOST_NAMES = 1000
"""Different things that a file may name beside its tensors."""


class Forgotten:
    """An object of a class that a file names, of which nothing is kept."""

    __slots__ = ()
    named = ""
    """The class."""

    def __new__(cls, *arguments: object, **fields: object) -> Any:
        """Forgets what it is made of."""
        del arguments, fields
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""


class _ForgottenDict:
    """Stands for another kind of dictionary: an ordinary one is made."""

    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return {}


class _ForgottenList:
    """Stands for another kind of list: an ordinary one is made."""

    def __new__(cls, *arguments: object) -> Any:
        del arguments
        return []


def _stand_in(named: str) -> type:
    last = named.rpartition(".")[2].lower()
    base: type = _ForgottenDict if last.endswith("dict") else Forgotten
    base = _ForgottenList if last == "deque" else base
    return type("Forgotten", (base,), {"__slots__": (), "named": named})


def read_torch_file(path: Path) -> Any:
    """The content of a file; its tensors may lie in the file still.

    Raises:
        ValueError: the file is damaged, or names what acts on the machine.
    """
    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        _require_plain(path)
    known: dict[str, type] = {}
    while True:
        allowed: Any = [(stand_in, name) for name, stand_in in known.items()]
        try:
            with safe_globals(allowed), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other protocols, which end in an error here
                return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except pickle.UnpicklingError as error:
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            if named is None:
                raise _unreadable(error) from error
            name = named[1] if "." in named[1] else f"builtins.{named[1]}"
            module, _, last = name.rpartition(".")
            if acts(module, last) or name in known or len(known) > MOST_NAMES:
                raise ValueError(
                    f"is refused: its pickle would use {name}; nothing was run"
                    "\n  fix: do not trust this file; fetch it from its authors"
                ) from error
            known[name] = _stand_in(name)
        except Exception as error:
            # A damaged file can raise anything at all from torch's readers.
            raise _unreadable(error) from error


def _unreadable(error: Exception) -> ValueError:
    reason = (str(error) or "no reason given").splitlines()[0]
    return ValueError(
        f"is no readable checkpoint ({type(error).__name__}: {reason}); nothing was run"
        "\n  fix: fetch the file again, or save its state dictionary alone by torch.save"
    )


def _require_plain(path: Path) -> None:
    """Raises ValueError if an archive would unpack to more than it is long."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise _unreadable(error) from error
    if unpacked > path.stat().st_size:
        raise ValueError(
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
