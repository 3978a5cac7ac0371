"""A PNG without what is written beside its pixels: texts, a colour profile, times.

Pillow refuses a whole file for a text above its limits or a profile that is broken, though neither
changes a pixel that it gives.
"""

import struct

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"tRNS", b"eXIf")
"""Chunks kept beside the critical ones: which colour is transparent, and which way is up."""


def only_pixels(data: bytes) -> bytes | None:
    """The file with its critical chunks, `tRNS` and `eXIf` only; None if it is no PNG.

    A file that ends within a chunk ends there afterwards, too.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept = [SIGNATURE]
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name = data[place + 4 : place + 8]
        end = place + 12 + length  # length, name and checksum are 4 bytes each
        is_critical = not name[0] & 0x20  # a capital letter; source: PNG 3rd edition, 5.4
        if is_critical or name in KEPT:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)
