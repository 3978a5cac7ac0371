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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.models.user_cache import cache_folder

SETTLED_NS = 2 * 10**9
"""Age from which a modification time tells later changes apart: FAT's clock ticks every 2 s."""
CHECKSUM = re.compile(r"-([0-9a-f]{8})\.[a-z]+$")
"""The convention of torch's hubs: a name ends in the first 8 digits of its content's sha256."""


def _cache_file() -> Path:
    return cache_folder() / "checksums.json"


def _read_cache() -> dict[str, list[object]]:
    try:
        cache = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    items = cache.items() if isinstance(cache, dict) else ()
    return {path: entry for path, entry in items if isinstance(entry, list) and len(entry) == 3}


def _write_cache(cache: dict[str, list[object]]) -> None:
    """Keeps the cache if it can be kept: it only saves time."""
    path = _cache_file()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(cache))
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def content_of_files(files: Sequence[Path], root: Path) -> str:
    """One sha256 over the content of all files, and their names relative to `root`.

    Where `root` is itself the only file, its name does not count. A file whose size and
    modification time are unchanged is not read again.

    Raises:
        OSError: a file cannot be read.
    """
    cache = _read_cache()
    changed = False
    total = hashlib.sha256()
    for path in sorted(files):
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns]
        entry = cache.get(str(path.absolute()))
        if entry is None or entry[:2] != seen:
            with path.open("rb") as file:
                entry = [*seen, hashlib.file_digest(file, "sha256").hexdigest()]
            if time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
                cache[str(path.absolute())] = entry
                changed = True
        name = "" if path == root else path.relative_to(root).as_posix()
        total.update(os.fsencode(name) + f"\0{entry[2]}\n".encode())
    if changed:
        _write_cache(cache)
    return total.hexdigest()


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
