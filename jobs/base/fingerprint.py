"""Checksums of files outside the store, remembered by path, size and modification time.

A file that changed a moment ago is not remembered: it may change again within one tick of the file
system's clock.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from slimctl.models.user_cache import cache_folder

SETTLED_NS = 2 * 10**9
"""Age from which a modification time tells later changes apart: FAT's clock ticks every 2 s."""


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
