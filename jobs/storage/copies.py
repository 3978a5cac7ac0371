"""Copies of a remote storage's blobs on this node, fetched once and shared by its processes.

Eight ranks of a node want the same pairs at the same time. Each copy has a marker beside it, which
is locked while the copy is made: who comes second waits, and then finds the marker of a copy whose
checksum was compared. A marker names the file that it is of by size and time, so that a file which
was changed since is looked at again. The kernel gives the lock of a dead process back.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from slimctl.jobs.base.errors import UserError

ENDING = ".verified"


class WrongContent(Exception):  # noqa: N818  (what was found, not what to do)
    """A blob whose bytes are not those that were written.

    Args:
        size: bytes that it has.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def verified_copy(
    path: Path, size: int, sha256: str, fetch: Callable[[], bytes], write: Callable[[bytes], None]
) -> Path:
    """The copy at `path` with that content: the one that is there, or fetched.

    Args:
        path: where it is, or is to be.
        size: bytes that it has to have.
        sha256: that it has to have.
        fetch: reads the blob; called by one process of the node at a time, and not where there is a
            right copy.
        write: puts bytes at `path`, all or none.

    Raises:
        FileNotFoundError: there is no such blob.
        WrongContent: it is another one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _marker(path) as marker:
        known = path.is_file() and path.stat().st_size == size
        if known and os.pread(marker, 256, 0) == _mark(path, sha256):
            return path
        if not known or _digest(path) != sha256:
            data = fetch()
            if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
                raise WrongContent(len(data))
            write(data)
        os.ftruncate(marker, 0)
        os.pwrite(marker, _mark(path, sha256), 0)
    return path


def own_folder(folder: Path) -> Path:
    """Makes a folder for copies that nobody else can write into: what is in it is believed.

    Raises:
        UserError: it belongs to somebody else.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        what = f"belongs to user {found.st_uid}, so the copies in it cannot be believed"
        raise UserError(str(folder), what, "remove it, or set TMPDIR to a folder of your own")
    if found.st_mode & 0o022:
        folder.chmod(0o700)
    return folder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mark(path: Path, sha256: str) -> bytes:
    found = path.stat()
    return f"{sha256} {found.st_size} {found.st_mtime_ns}".encode()


@contextlib.contextmanager
def _marker(path: Path) -> Iterator[int]:
    """The marker of a copy, held by this process alone."""
    file = os.open(f"{path}{ENDING}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)
