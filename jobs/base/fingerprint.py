"""Checksums of files outside the store, remembered by path, size and modification time."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "slimctl" / "checksums.json"


def _read_cache() -> dict[str, list[object]]:
    try:
        cache = json.loads(_cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: dict[str, list[object]]) -> None:
    """Keeps the cache if it can be kept: it only saves time."""
    path = _cache_file()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(cache))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def content_of_files(files: Sequence[Path], root: Path) -> str:
    """One sha256 over the names (relative to `root`) and the content of all files.

    A file whose size and modification time are unchanged is not read again.

    Raises:
        OSError: a file cannot be read.
    """
    cache = _read_cache()
    known = len(cache)
    total = hashlib.sha256()
    for path in sorted(files):
        stat = path.stat()
        seen = [stat.st_size, stat.st_mtime_ns]
        entry = cache.get(str(path.absolute()))
        if entry is None or entry[:2] != seen:
            with path.open("rb") as file:
                entry = [*seen, hashlib.file_digest(file, "sha256").hexdigest()]
            cache[str(path.absolute())] = entry
            known = -1
        name = path.relative_to(root).as_posix() if path != root else path.name
        total.update(f"{name}\0{entry[2]}\n".encode())
    if known != len(cache):
        _write_cache(cache)
    return total.hexdigest()
