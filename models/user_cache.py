"""Where this user's small caches are: they only save time, and their place may not exist."""

import os
import tempfile
from pathlib import Path


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
