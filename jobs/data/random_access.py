"""Any piece of a file, local or in an object store, without reading the rest.

Files are read in blocks, since archives are read from their beginning to their end; those of a
remote one, which answers slowly, are large.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

from slimctl.jobs.base.errors import UserError, printable
from slimctl.jobs.base.fingerprint import Seen, content_of

BLOCK = 8 * 2**20
"""Bytes of a remote file that are fetched at once."""
LOCAL_BLOCK = 128 * 2**10
"""The same of a local one."""


class RemoteFile(NamedTuple):
    """A file of an object store, as it was listed."""

    uri: str
    size: int
    """Bytes."""
    modified_ns: int

    @property
    def name(self) -> str:
        """The last part of its name."""
        return self.uri.rpartition("/")[2]


Place = Path | RemoteFile
"""Where a file is."""


def remote_files(pattern: str, uris: list[str]) -> list[RemoteFile]:
    """Looks for files of an object store.

    Args:
        pattern: what the user named them by, for errors.
        uris: of the files.

    Raises:
        UserError: the store cannot be asked, or a file is not there; names the first.
    """
    from pyarrow import fs  # noqa: PLC0415  (slow to import, seldom needed)

    try:
        system, _ = fs.FileSystem.from_uri(uris[0])
        found = system.get_file_info([fs.FileSystem.from_uri(uri)[1] for uri in uris])
    except (OSError, ValueError) as error:
        said = printable(str(error)).splitlines()[0]
        raise UserError(pattern, f"cannot be looked at: {said}", "check URI and rights") from error
    missing = [uri for uri, info in zip(uris, found, strict=True) if info.type != fs.FileType.File]
    if missing:
        what = f"{len(missing):,} of {len(uris):,} files are not there, the first {missing[0]}"
        raise UserError(pattern, what, "check the URI, and the numbers in braces")
    return [
        RemoteFile(uri, info.size, info.mtime_ns or 0)
        for uri, info in zip(uris, found, strict=True)
    ]


def content_of_remote(files: Sequence[RemoteFile]) -> str:
    """One sha256 over the content and the names of files of an object store.

    Raises:
        OSError: a file cannot be read.
    """
    by_uri = {file.uri: file for file in files}

    def digest(seen: Seen) -> str:
        total = hashlib.sha256()
        with RandomAccess(by_uri[seen.where]) as file:
            for at in range(0, file.size, BLOCK):
                total.update(file.read(at, min(BLOCK, file.size - at)))
        return total.hexdigest()

    seen = [Seen(file.uri, file.name, file.size, file.modified_ns) for file in files]
    return content_of(seen, digest)


class RandomAccess:
    """An open file, for any number of threads; closed when nobody has it any more.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, place: Place) -> None:
        self._block, self._start, self._fetching = b"", 0, Lock()
        self._file: Any = None
        self._number = -1
        """Of the open file, where it is local."""
        if isinstance(place, RemoteFile):
            from pyarrow import fs  # noqa: PLC0415

            system, path = fs.FileSystem.from_uri(place.uri)
            self._file = system.open_input_file(path)
            self.size, self._ahead = int(self._file.size()), BLOCK
        else:
            self._number = os.open(place, os.O_RDONLY)
            self.size, self._ahead = os.fstat(self._number).st_size, LOCAL_BLOCK
        """Bytes of the file."""

    def read(self, at: int, size: int) -> bytes:
        """The bytes from `at` on: `size`, or fewer where the file ends.

        Raises:
            OSError: they cannot be read.
        """
        if size >= self._ahead:
            return self._fetch(at, size)
        with self._fetching:
            begin = at - self._start
            if not 0 <= begin <= begin + size <= len(self._block):
                self._block, self._start, begin = self._fetch(at, self._ahead), at, 0
            return self._block[begin : begin + size]

    def _fetch(self, at: int, size: int) -> bytes:
        if self._file is None:
            return _read_local(self._number, at, size)
        return bytes(self._file.read_at(size, at))

    def close(self) -> None:
        """Ends all reading."""
        if self._file is not None:
            self._file.close()
        elif self._number >= 0:
            os.close(self._number)
            self._number = -1

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_local(number: int, at: int, size: int) -> bytes:
    """One system call gives at most 2 GiB, and a signal may make it less."""
    parts = []
    while size > 0 and (part := os.pread(number, size, at)):
        parts.append(part)
        at, size = at + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
