"""JSON that carries a checksum of itself, so that a changed or cut text is never believed.

The seal is the last field of the object and covers the text before it as it stands: reading needs
no second serialisation.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_MARK = ', "sha256": "'
_DIGITS = 64
_TAIL = len(_MARK) + _DIGITS + len('"}')


def seal(fields: Mapping[str, Any]) -> bytes:
    """One or more fields as a line of ASCII JSON; values that are not JSON become text."""
    body = json.dumps(dict(fields), default=str)[:-1]
    digest = hashlib.sha256(body.encode("ascii")).hexdigest()
    return f'{body}{_MARK}{digest}"}}'.encode("ascii")


def unseal(data: bytes) -> dict[str, Any]:
    """The fields of a sealed text.

    Raises:
        ValueError: it is not what was written.
    """
    body, tail = data[:-_TAIL], data[-_TAIL:]
    expected = f'{_MARK}{hashlib.sha256(body).hexdigest()}"}}'.encode("ascii")
    if not body or tail != expected:
        raise ValueError("the text is not what was written")
    fields: dict[str, Any] = json.loads(body + b"}")
    return fields
