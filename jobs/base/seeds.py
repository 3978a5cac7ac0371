"""Independent seeds for the parts of a job that draw with a library's own generator."""

import hashlib


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed from the job's and a purpose, such as ("dropout", step, rank)."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
