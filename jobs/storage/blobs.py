"""Named bytes in a folder or an object store, written so that no half-written one is ever seen.

A local write goes to a temporary name and is renamed; an object store's put is atomic by itself.
"""

import contextlib
import copy
import hashlib
import os
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.storage.copies import WrongContent, own_folder, verified_copy

MAX_NAME = 1000
"""Characters of a name: S3 takes 1024 bytes."""
MAX_PART_BYTES = 240
"""Bytes between two slashes: file systems take 255, of which a temporary name needs 14 more."""


class Blobs(ABC):
    """A flat name space of byte strings; names are relative POSIX paths."""

    uri: str
    """Where it is: an absolute path or a URI."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of `name`. Raises FileNotFoundError if there is no such blob."""

    @abstractmethod
    def write(self, name: str, data: bytes | Iterable[memoryview]) -> None:
        """Writes all of `data`, or all of its pieces in turn, under `name`, or nothing."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Size in bytes; None if there is no such blob."""

    @abstractmethod
    def modified(self, name: str) -> float | None:
        """Unix time of the last write, s; None if there is no such blob or it is not known."""

    @abstractmethod
    def names(self, prefix: str = "") -> list[str]:
        """Names of all blobs below the folder `prefix`, sorted."""

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names of the folders directly below `prefix`, without it, sorted."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a blob or everything below a folder; missing is fine."""

    @abstractmethod
    def put_file(self, path: Path, name: str) -> None:
        """Moves a finished local file to `name`."""

    @abstractmethod
    def local(self, name: str, *, fresh: bool = False) -> Path:
        """A local path with the bytes of `name`: the file itself, or a cached copy.

        With `fresh` it is fetched again even if a copy of its size is there.

        Raises:
            FileNotFoundError: there is no such blob.
        """

    @abstractmethod
    def verified(self, name: str, size: int, sha256: str) -> Path:
        """A local path with the bytes of `name`, compared with their checksum.

        Once by each process, or, of copies, by one process of the node for all.

        Raises:
            FileNotFoundError: there is no such blob.
            WrongContent: its bytes are others.
        """

    def exists(self, name: str) -> bool:
        """Whether there is such a blob."""
        return self.size(name) is not None

    @abstractmethod
    def below(self, prefix: str) -> "Blobs":
        """The same storage seen from a folder inside it."""


def check_name(name: str) -> str:
    """Refuses names that would leave the storage.

    Raises:
        DamagedArtifact: `name` is absolute, has `..`, or cannot be the name of a file.
    """
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts
    if leaves or len(name) > MAX_NAME or not all(_fits(part) for part in path.parts):
        raise DamagedArtifact("storage", f"{name!r} is not a name inside the storage")
    return name


def _fits(part: str) -> bool:
    try:
        return "\0" not in part and len(part.encode()) <= MAX_PART_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        return False


class LocalBlobs(Blobs):
    """Blobs as files of a local (or network-mounted) folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.uri = str(self.root)
        self._verified: set[tuple[str, str]] = set()

    def _path(self, name: str) -> Path:
        return self.root / check_name(name)

    def read(self, name: str) -> bytes:
        try:
            return self._path(name).read_bytes()
        except (IsADirectoryError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{self.uri}/{name}") from error

    def write(self, name: str, data: bytes | Iterable[memoryview]) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(path)
        try:
            with temporary.open("wb") as file:
                file.writelines(_pieces(data))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def modified(self, name: str) -> float | None:
        path = self._path(name)
        return path.stat().st_mtime if path.exists() else None

    def names(self, prefix: str = "") -> list[str]:
        # os.walk passes over a folder that another process removes meanwhile; rglob raises.
        return sorted(
            (Path(folder) / name).relative_to(self.root).as_posix()
            for folder, _, files in os.walk(self._path(prefix))
            for name in files
            if not (name.startswith(".") and name.endswith(".tmp"))
        )

    def folders(self, prefix: str = "") -> list[str]:
        folder = self._path(prefix) if prefix else self.root
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    def delete(self, name: str) -> None:
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()

    def put_file(self, path: Path, name: str) -> None:
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as file:
            os.fsync(file.fileno())  # its name must not outlive a power cut that its bytes do not
        try:
            path.replace(target)
        except OSError:  # another file system: copy beside the target, then rename
            temporary = _temporary(target)
            try:
                shutil.copyfile(path, temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            path.unlink()

    def local(self, name: str, *, fresh: bool = False) -> Path:
        del fresh  # the file itself is never stale
        path = self._path(name)
        if not path.is_file():
            raise FileNotFoundError(str(path))
        return path

    def verified(self, name: str, size: int, sha256: str) -> Path:
        path = self.local(name)
        if (found := path.stat().st_size) != size:
            raise WrongContent(found)
        if (name, sha256) not in self._verified:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise WrongContent(found)
            self._verified.add((name, sha256))
        return path

    def below(self, prefix: str) -> "LocalBlobs":
        return LocalBlobs(self._path(prefix))


def _pieces(data: bytes | Iterable[memoryview]) -> Iterable[bytes | memoryview]:
    return (data,) if isinstance(data, bytes) else data


def _temporary(path: Path) -> Path:
    """A name beside `path` that `Blobs.names` does not list."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


class RemoteBlobs(Blobs):
    """Blobs of an object store that pyarrow.fs opens, such as s3://bucket/folder.

    Credentials and endpoint come from the usual environment of that store.
    """

    def __init__(self, uri: str) -> None:
        from pyarrow import fs  # noqa: PLC0415  (slow import, remote storages only)

        short = uri.rstrip("/")
        self.uri = uri if short.endswith(":") else short  # the root of a file system stays one
        self._selector: Any = fs.FileSelector
        self._file_type: Any = fs.FileType
        self._fs, root = fs.FileSystem.from_uri(self.uri)
        self._root = root.rstrip("/")
        self._cache = Path(tempfile.gettempdir()) / f"slimctl-cache-{os.getuid()}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{check_name(name)}" if name else self._root

    def read(self, name: str) -> bytes:
        try:
            with self._fs.open_input_file(self._path(name)) as file:
                return bytes(file.read())
        except OSError as error:
            if self.exists(name):
                raise
            raise FileNotFoundError(f"{self.uri}/{name}") from error  # also if it went meanwhile

    def write(self, name: str, data: bytes | Iterable[memoryview]) -> None:
        with self._fs.open_output_stream(self._path(name)) as file:
            for piece in _pieces(data):
                file.write(piece)

    def size(self, name: str) -> int | None:
        info = self._fs.get_file_info([self._path(name)])[0]
        return int(info.size) if info.type == self._file_type.File else None

    def modified(self, name: str) -> float | None:
        info = self._fs.get_file_info([self._path(name)])[0]
        return info.mtime.timestamp() if info.mtime is not None else None

    def _infos(self, prefix: str, *, recursive: bool) -> list[Any]:
        selector = self._selector(self._path(prefix), recursive=recursive, allow_not_found=True)
        return list(self._fs.get_file_info(selector))

    def names(self, prefix: str = "") -> list[str]:
        found = (i for i in self._infos(prefix, recursive=True) if i.type == self._file_type.File)
        return sorted(info.path.removeprefix(self._root).lstrip("/") for info in found)

    def folders(self, prefix: str = "") -> list[str]:
        found = self._infos(prefix, recursive=False)
        return sorted(i.base_name for i in found if i.type == self._file_type.Directory)

    def delete(self, name: str) -> None:
        if self.size(name) is not None:
            self._fs.delete_file(self._path(name))
            return
        for blob in self.names(name):
            self._fs.delete_file(self._path(blob))

    def put_file(self, path: Path, name: str) -> None:
        self.write(name, path.read_bytes())
        path.unlink()

    def verified(self, name: str, size: int, sha256: str) -> Path:
        copy = self._copy(name)
        write = partial(LocalBlobs(copy.parent).write, copy.name)
        return verified_copy(copy, size, sha256, partial(self.read, name), write)

    def _copy(self, name: str) -> Path:
        """Where the copy of a blob is on this node."""
        return own_folder(self._cache) / self._path(name).lstrip("/")

    def local(self, name: str, *, fresh: bool = False) -> Path:
        target = self._copy(name)
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{self.uri}/{name}")
        if fresh or not (target.is_file() and target.stat().st_size == size):
            LocalBlobs(target.parent).write(target.name, self.read(name))
        return target

    def below(self, prefix: str) -> "RemoteBlobs":
        inside = copy.copy(self)
        vars(inside).update(uri=f"{self.uri}/{prefix}", _root=self._path(prefix))
        return inside


def check_secretless(uri: str, what: str) -> None:
    """Refuses a URI with a password in it: it would be kept with every run.

    Raises:
        UserError: it has one; the text does not repeat it.
    """
    parts = urlsplit(uri)
    query = parse_qs(parts.query).keys()
    if "@" in parts.netloc or any(word in name for name in query for word in ("secret", "key")):
        host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise UserError(
            f"{what} {host}",
            "has a user name, password or key in it, which would be kept with every run",
            "put them into the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for S3, "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for MLflow",
        )


def open_blobs(uri: str) -> Blobs:
    """Opens a storage: a path, `file://...`, or any URI that pyarrow.fs understands.

    Raises:
        UserError: nothing can open that URI.
    """
    if not all(_fits(part) for part in uri.split("/")):
        raise UserError("", f"{uri!r} cannot be the name of a storage", "use a shorter, plain path")
    if uri.startswith("file://"):
        return LocalBlobs(unquote(urlsplit(uri).path))
    if "://" not in uri:
        return LocalBlobs(uri)
    check_secretless(uri, "storage")
    try:
        return RemoteBlobs(uri)
    except (ValueError, OSError) as error:
        raise UserError(
            "", f"cannot open storage '{uri}': {error}", "use a path or s3://bucket/folder"
        ) from error
