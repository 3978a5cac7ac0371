"""Files outside the store: their checksums, and weight files that others publish.

Checksums are remembered by path, size and modification time. A file that changed a moment ago is
not: it may change again within one tick of the file system's clock. Nothing that others publish is
ever downloaded, and nothing else is taken in its place.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.models.user_cache import cache_folder

SETTLED_NS = 2 * 10**9
"""Age from which a modification time tells later changes apart: FAT's clock ticks every 2 s."""
MANY = 10_000
"""Files from which a set has its own file of checksums."""
CHECKSUM = re.compile(r"-([0-9a-f]{8})\.[a-z]+$")
"""The convention of torch's hubs: a name ends in the first 8 digits of its content's sha256."""


def _cache_file() -> Path:
    return cache_folder() / "checksums.json"


def _read_cache() -> dict[str, list[object]]:
    try:
        return _entries(json.loads(_cache_file().read_text()))
    except (OSError, ValueError):
        return {}


def _entries(cache: object) -> dict[str, list[object]]:
    items = cache.items() if isinstance(cache, dict) else ()
    return {path: entry for path, entry in items if isinstance(entry, list) and len(entry) == 3}


def _write_cache(cache: dict[str, list[object]]) -> None:
    _write_lines(_cache_file(), [json.dumps(cache)])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    """Keeps what was found if it can be kept: it only saves time."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text("\n".join(lines))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


@dataclass(frozen=True)
class Seen:
    """A file that counts, as it was found."""

    where: str
    """Its absolute path, or its URI."""
    name: str
    """What it is called in the key."""
    size: int
    """Bytes."""
    modified_ns: int


def content_of_files(files: Sequence[Path], root: Path) -> str:
    """One sha256 over the content of all files, and their names relative to `root`.

    Where `root` is itself the only file, its name does not count. A file whose size and
    modification time are unchanged is not read again.

    Raises:
        OSError: a file cannot be read.
    """
    ordered = sorted(files, key=lambda path: path.parts)
    base = Path.cwd()  # once, not for each of a million files
    prefix, seen = os.path.join(root, ""), []  # noqa: PTH118  (as the names below begin)
    for path in ordered:
        stat, text = os.stat(path), str(path)  # noqa: PTH116  (a third of the time of Path's)
        known = text[len(prefix) :] if text.startswith(prefix) else None
        name = "" if path == root else known or path.relative_to(root).as_posix()
        seen.append(Seen(str(base / text), name, stat.st_size, stat.st_mtime_ns))
    return content_of(seen, _digest)


def _digest(file: Seen) -> str:
    with Path(file.where).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_of(files: Sequence[Seen], digest: Callable[[Seen], str]) -> str:
    """One sha256 over the content and the names of files, in their order.

    Args:
        files: as they are now.
        digest: sha256 of a file's content; asked for those that are new or changed.

    Raises:
        OSError: a file cannot be read.
    """
    if len(files) > MANY:
        return _content_of_many(files, digest)
    cache = _read_cache()
    digests, fresh = _digests(files, cache, digest)
    if fresh:
        _write_cache(cache | fresh)
    return _total(files, digests)


def _digests(
    files: Sequence[Seen], cache: Mapping[str, list[object]], digest: Callable[[Seen], str]
) -> tuple[list[str], dict[str, list[object]]]:
    """The digest of each file, and what is new and may be remembered."""
    known = {
        file.where: str(entry[2])
        for file in files
        if (entry := cache.get(file.where)) and entry[:2] == [file.size, file.modified_ns]
    }
    new = [file for file in files if file.where not in known]
    if len(new) > 1:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "hash") as pool:
            known |= zip([file.where for file in new], pool.map(digest, new), strict=True)
    else:
        known |= {file.where: digest(file) for file in new}
    settled = time.time_ns() - SETTLED_NS
    fresh: dict[str, list[object]] = {
        file.where: [file.size, file.modified_ns, known[file.where]]
        for file in new
        if file.modified_ns < settled
    }
    return [known[file.where] for file in files], fresh


def _total(files: Sequence[Seen], digests: Sequence[str]) -> str:
    total = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        total.update(os.fsencode(file.name) + f"\0{digest}\n".encode())
    return total.hexdigest()


def _content_of_many(files: Sequence[Seen], digest: Callable[[Seen], str]) -> str:
    """The same for very many files, whose checksums have a file of their own.

    It begins with the checksum of the listing: while that is the same nothing else of it is read.
    """
    listing = hashlib.sha256()
    for file in files:
        line = f"{file.where}\0{file.name}\0{file.size}\0{file.modified_ns}\n"
        listing.update(os.fsencode(line))
    first, last = files[0].where, files[-1].where
    name = hashlib.sha256(os.fsencode(f"{first}\0{last}")).hexdigest()[:16]
    path = _cache_file().with_name(f"checksums-{name}.json")
    kept = _read_many(path, listing.hexdigest())
    if isinstance(kept, str):
        return kept
    digests, fresh = _digests(files, kept, digest)
    total = _total(files, digests)
    cache = {file.where: kept[file.where] for file in files if file.where in kept} | fresh
    head = [listing.hexdigest() if len(cache) == len(files) else "", total]
    _write_lines(path, [json.dumps(head), json.dumps(cache)])
    return total


def _read_many(path: Path, listing: str) -> str | dict[str, list[object]]:
    """The checksum of all files where the listing is the one that was kept; else of each."""
    try:
        with path.open() as file:
            head = json.loads(file.readline())
            if head[0] == listing:
                return str(head[1])
            return _entries(json.loads(file.readline()))
    except (OSError, ValueError, LookupError, TypeError):
        return {}  # not there, or of another version: it only saves time


@dataclass(frozen=True)
class PublishedFile:
    """A weight file that people fetch: what it is called, and in words where it is published."""

    name: str
    place: str


def require_file(path: str, field: str, published: PublishedFile, facts: Facts) -> None:
    """Checks that a file is there.

    Raises:
        MissingFile: it is not; says what to fetch, from where, and where to put it.
    """
    if not Path(path).expanduser().is_file():
        raise MissingFile(
            field,
            f"there is no file '{path}'",
            f"fetch {published.name} from {published.place}, and put it there or name where it is; "
            "nothing is downloaded here",
            facts,
        )


def require_checksum(path: str, field: str) -> None:
    """Checks the content of a file whose name ends in the first digits of its sha256.

    Raises:
        FieldError: they differ: the file is damaged, or was renamed.
        OSError: it cannot be read.
    """
    found = CHECKSUM.search(path)
    if found is None:
        return
    with Path(path).expanduser().open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    if not content.startswith(found[1]):
        raise FieldError(
            field,
            f"'{path}' has sha256 {content[:8]}..., which its name says is {found[1]}...",
            "fetch it again, or give it its own name",
        )
