"""Files that others publish and the user fetches: is it there, and is it the one that was meant?

Nothing is ever downloaded, and nothing else is taken in its place.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from slimctl.jobs.base.facts import Facts, FieldError, MissingFile

CHECKSUM = re.compile(r"-([0-9a-f]{8})\.[a-z]+$")
"""The convention of torch's hubs: a name ends in the first 8 digits of its content's sha256."""


@dataclass(frozen=True)
class PublishedFile:
    """A weight file that people fetch.

    Args:
        name: what it is called where it is published.
        place: where that is, in words.
    """

    name: str
    place: str


def require_file(path: str, field: str, published: PublishedFile, facts: Facts) -> None:
    """Checks that a file is there.

    Args:
        path: as the user wrote it.
        field: that it stands in.
        published: what to fetch if it is not there.
        facts: what is known of the job's result all the same.

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
