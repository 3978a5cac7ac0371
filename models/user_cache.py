"""Where this user's small caches are: they only save time, and their place may not exist."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """`slimctl` in the user's cache folder; in the temporary folder for a user without a home.

    A container may run as a number that has no name and no home.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "slimctl"
    try:
        return Path.home() / ".cache" / "slimctl"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return Path(tempfile.gettempdir()) / f"slimctl-{os.getuid()}"


def kept(name: str, identity: str, make: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Numbers that a file of the cache has under an identity, else made and added to the file.

    Args:
        name: of the file.
        identity: all that the numbers depend on.
        make: makes them.
    """
    path = cache_folder() / name
    key = hashlib.sha256(identity.encode()).hexdigest()[:24]
    known = _read(path).get(key)
    if isinstance(known, list) and all(isinstance(number, int) for number in known):
        return tuple(known)
    found = make()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**_read(path), key: found}))
        temporary.replace(path)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
