"""The content-addressed store.

`artifacts/<id>/artifact.json` is written last, atomically: its presence is success. It lists every
file with size and sha256, and holds a checksum of itself, so that nothing half-written or changed
is ever believed.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from slimctl.jobs.base.artifacts import HANDLES, Handle, ShardFile
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.base.registry import handle_type, is_built_in, package_of
from slimctl.jobs.storage.blobs import Blobs, LocalBlobs, open_blobs
from slimctl.jobs.storage.copies import WrongContent
from slimctl.models.spec import Spec

MANIFEST = "artifact.json"
AT_ONCE = 16
"""Requests to the storage at a time: an object store takes tens of milliseconds to answer each."""
HandleT = TypeVar("HandleT", bound=Handle)
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
State = Literal["absent", "damaged", "done"]


class FileRecord(Spec):
    """A file of an artifact."""

    size: int
    """Bytes."""
    sha256: str


class Manifest(Spec):
    """What `artifact.json` holds."""

    format: Literal[1] = 1
    type: str
    """Name of the handle type."""
    package: str = ""
    """Package that the type is from, with its version; "" = this one, or not kept."""
    kind: str
    version: int
    spec: dict[str, Any]
    """The job's fields as they were asked."""
    inputs: dict[str, str]
    """Job name -> artifact id of every input."""
    handle: dict[str, Any]
    files: dict[str, FileRecord]
    created: float
    """Unix time, s."""
    wall_s: float
    device_s: float
    """Seconds times devices (or CPU cores) held."""
    notes: tuple[str, ...] = ()
    """Warnings and choices worth knowing, such as the precision used."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """How it was run: device, threads, precision, workers, versions."""
    sha256: str
    """Checksum of all the other fields."""


def _checksum(fields: Mapping[str, Any]) -> str:
    """Checksum of a manifest's fields but its own, however they are laid out in the file."""
    others = {name: value for name, value in fields.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Checksum of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _at_once(function: Callable[[ItemT], ResultT], items: Collection[ItemT]) -> list[ResultT]:
    """The results of a function that waits for the storage, in order; the first error ends it."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="storage") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()


def _unlike(name: str, found: int | None, size: int, owner: str) -> DamagedArtifact:
    """The error of a blob that is not there, or has another size."""
    what = "is missing" if found is None else f"has {found} bytes instead of {size}"
    return DamagedArtifact(owner, f"{name} {what}", "submit again: it will be made again")


class Store:
    """Artifacts of one storage: a path or any URI that pyarrow.fs opens."""

    def __init__(self, uri: str) -> None:
        self.blobs: Blobs = open_blobs(uri)
        self.uri = self.blobs.uri

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        return Store, (self.uri,)

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written here."""
        probe = f"tmp/probe-{time.time_ns():x}"
        try:
            self.blobs.write(probe, b"slimctl")
            self.blobs.delete(probe)
        except OSError as error:
            raise UserError(
                f"storage {self.uri}",
                f"cannot be written: {error.strerror or error}",
                "choose another folder with --storage, or repair its permissions",
            ) from error

    def state(self, artifact_id: str) -> State:
        """Whether an artifact is there with all its files at their recorded sizes."""
        try:
            manifest = self.manifest(artifact_id)
            blobs = self.blobs_of(artifact_id, manifest) if manifest else {}
            _at_once(lambda one: self._check_size(one[0], one[1].size, artifact_id), blobs.items())
        except DamagedArtifact:
            return "damaged"
        return "absent" if manifest is None else "done"

    def manifest(self, artifact_id: str) -> Manifest | None:
        """The manifest of an artifact; None if it was never finished.

        Raises:
            DamagedArtifact: it cannot be read as one, or is not the one that was written.
        """
        try:
            text = self.blobs.read(f"artifacts/{artifact_id}/{MANIFEST}")
        except FileNotFoundError:
            return None
        try:
            manifest = Manifest.model_validate_json(text)
            if is_built_in(manifest.kind) and not manifest.package:  # others may be absent
                HANDLES[manifest.type].model_validate(manifest.handle)
            intact = manifest.sha256 == _checksum(json.loads(text))
        except (ValueError, KeyError) as error:
            raise DamagedArtifact(
                artifact_id, f"{MANIFEST} is not readable", "submit again: it will be made again"
            ) from error
        if not intact or manifest.handle.get("id") != artifact_id:
            raise DamagedArtifact(
                artifact_id,
                f"{MANIFEST} was changed or belongs to another artifact",
                "submit again: it will be made again",
            )
        return manifest

    def blobs_of(self, artifact_id: str, manifest: Manifest) -> dict[str, FileRecord]:
        """Every blob that an artifact consists of beside its manifest, shards included."""
        folder = f"artifacts/{artifact_id}"
        found = {f"{folder}/{name}": record for name, record in manifest.files.items()}
        try:
            made = handle_type(manifest.type, manifest.kind)
        except UserError:  # of a package that is not installed here: its own files are known
            return found
        if made.elsewhere is not Handle.elsewhere:
            for file in made.model_validate(manifest.handle).elsewhere():
                found[file.path] = FileRecord(size=file.size, sha256=file.sha256)
        return found

    def _check_size(self, name: str, size: int, artifact_id: str) -> None:
        found = self.blobs.size(name)
        if found != size:
            raise _unlike(name, found, size, artifact_id)

    def load(self, artifact_id: str, expected: type[HandleT]) -> HandleT:
        """The handle of a finished artifact.

        Raises:
            DamagedArtifact: absent, unreadable or of another type.
        """
        handle = self.load_any(artifact_id)
        if not isinstance(handle, expected):
            raise DamagedArtifact(
                artifact_id, f"is a {type(handle).__name__}, not a {expected.__name__}"
            )
        return handle

    def load_any(self, artifact_id: str) -> Handle:
        """The handle of a finished artifact of any type.

        Raises:
            DamagedArtifact: absent or unreadable.
            UserError: its type is of a package that is not installed here.
        """
        manifest = self.manifest(artifact_id)
        if manifest is None:
            raise DamagedArtifact(artifact_id, f"is not in {self.uri}", "submit its pipeline")
        try:
            made = handle_type(manifest.type, manifest.kind, manifest.package)
            return made.model_validate(manifest.handle)
        except ValidationError as error:
            raise DamagedArtifact(
                artifact_id,
                f"is no {manifest.type} as the installed version of '{manifest.kind}' has it",
                "install the version that made it, or submit again under the new one",
            ) from error
        except UserError as error:
            raise UserError(artifact_id, error.what, error.fix) from error

    def plain(self, artifact_id: str) -> dict[str, Any]:
        """A handle as plain data: as it was written where the package of its type is not here."""
        try:
            return self.load_any(artifact_id).model_dump(mode="json")
        except UserError:
            manifest = self.manifest(artifact_id)
            return manifest.handle if manifest else {}

    def file(self, handle: Handle, name: str) -> Path:
        """A local path to a file of an artifact, checksum verified once per process.

        Raises:
            DamagedArtifact: the bytes are not what the manifest says.
        """
        manifest = self.manifest(handle.id)
        if manifest is None or name not in manifest.files:
            raise DamagedArtifact(handle.id, f"has no file {name}", "submit its pipeline again")
        record = manifest.files[name]
        return self.verified(f"artifacts/{handle.id}/{name}", record.size, record.sha256, handle.id)

    def shards(self, shards: Sequence[ShardFile]) -> list[Path]:
        """Local paths to shards whose checksums were compared; several are fetched at once.

        Raises:
            DamagedArtifact: the bytes are not what their pair set says.
        """
        return _at_once(self.shard, shards)

    def shard(self, shard: ShardFile) -> Path:
        """A local path to a shard whose checksum was compared.

        Raises:
            DamagedArtifact: the bytes are not what its pair set says.
        """
        return self.verified(shard.path, shard.size, shard.sha256, shard.path)

    def verified(self, name: str, size: int, sha256: str, owner: str) -> Path:
        """A local path to a blob whose size and checksum are as given.

        Raises:
            DamagedArtifact: they are not; damaged bytes are removed.
        """
        try:
            return self.blobs.verified(name, size, sha256)
        except FileNotFoundError:
            found = None
        except WrongContent as error:
            found = error.size
        if found != size:
            raise _unlike(name, found, size, owner)
        self.blobs.delete(name)  # so that the next plan sees that it is not there
        raise DamagedArtifact(
            owner,
            f"{name} was not what it was when it was made, so it was removed",
            "submit again: only what is damaged is made again",
        )

    def stage(self) -> Path:
        """A fresh local folder for the files of a result, on the storage's disk if it is local."""
        if isinstance(self.blobs, LocalBlobs):
            parent = self.blobs.root / "tmp"
            parent.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="stage-", dir=parent))
        return Path(tempfile.mkdtemp(prefix="slimctl-stage-"))

    def commit(
        self, artifact_id: str, handle: HandleT, folder: Path, manifest: Mapping[str, Any]
    ) -> HandleT:
        """Moves staged files into place, writes the manifest last; returns the handle with its id.

        `manifest` has the fields of `Manifest` that describe how the result was made.
        """
        package = package_of(type(handle), manifest["kind"])
        finished = handle.model_copy(update={"id": artifact_id})
        files: dict[str, FileRecord] = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, sha256=sha256_of(path))
            self.blobs.put_file(path, f"artifacts/{artifact_id}/{name}")
        record = Manifest(
            type=type(handle).__name__,
            package=package,
            handle=finished.model_dump(mode="json"),
            files=files,
            created=time.time(),
            **manifest,
            sha256="",
        )
        fields = record.model_dump(mode="json", exclude=None if package else {"package"})
        text = json.dumps(fields | {"sha256": _checksum(fields)}, indent=1)
        self.blobs.write(f"artifacts/{artifact_id}/{MANIFEST}", text.encode())
        return finished

    def work(self, artifact_id: str) -> Blobs:
        """Folder for unfinished work that a later attempt continues from."""
        return self.blobs.below(f"work/{artifact_id}")

    def find(self, prefix: str) -> list[str]:
        """Ids of artifacts that begin with `prefix` and were finished, damaged ones too."""
        return [
            found
            for found in self.blobs.folders("artifacts")
            if found.startswith(prefix) and self.blobs.exists(f"artifacts/{found}/{MANIFEST}")
        ]
