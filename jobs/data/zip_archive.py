"""Reads StyleGAN's and EDM's archives: images in a .zip, with their labels in its `dataset.json`.

The list of members is read by Python's zipfile; a member itself here, by its place, so that many
processes can read one large archive without its list, which takes a gigabyte for a million images.

Source: PKWARE's APPNOTE 6.3.10, 4.3.7 (local header), 4.4.5 (methods); dataset_tool.py of EDM.
"""

import io
import json
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.folders import SUFFIXES
from slimctl.jobs.data.index import ENCODED_LIMIT, TEXT_LIMIT, Index, check_member_name
from slimctl.jobs.data.label_files import EDM
from slimctl.jobs.data.random_access import Place, RandomAccess, RemoteFile

_LOCAL = struct.Struct("<4s22xHH")
"""Signature, and the lengths of the name and of the extra field."""
_LINK = 0o120000
_TYPE = 0o170000
_ENCRYPTED = 0x1


def read_zip(
    file: RandomAccess, header: int, stored: int, size: int, method: int, checksum: int
) -> bytes:
    """The bytes of a member.

    Raises:
        ValueError, zlib.error: it is damaged, encrypted or compressed in no usual way, or it is
            larger than any image or than it says.
        OSError: it cannot be read.
    """
    if max(stored, size) > ENCODED_LIMIT:
        raise ValueError(f"{max(stored, size):,} bytes, more than an image has")
    lead = file.read(header, _LOCAL.size)
    if len(lead) < _LOCAL.size or lead[:4] != b"PK\x03\x04":
        raise ValueError("not where the archive says")
    _, name, extra = _LOCAL.unpack(lead)
    data = file.read(header + _LOCAL.size + name + extra, stored)
    if method == zipfile.ZIP_DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
    elif method != zipfile.ZIP_STORED:
        raise ValueError("compressed or encrypted, neither stored nor deflated")
    if len(data) != size or zlib.crc32(data) != checksum:
        raise ValueError("other bytes than its checksum says")
    return data


def index_zip(place: Place, label: str | None = None, *, labels: bool = True) -> Index:
    """Finds the images of an archive, in the order of their names.

    Args:
        place: the archive.
        label: list of `dataset.json` that has the labels; None = `labels`.
        labels: whether labels are wanted at all.

    Raises:
        UserError: it is no .zip, is damaged, has links or names that lead out of it, no images, or
            a `dataset.json` that is none.
    """
    where = place.uri if isinstance(place, RemoteFile) else str(place)
    try:
        with RandomAccess(place) as file:
            listed = zipfile.ZipFile(_Seekable(file)).infolist()
            images = sorted((each for each in listed if _is_image(each, where)), key=_by_name)
            if sum(each.compress_size for each in images) > file.size:
                raise UserError(where, "has members that overlap: it is a bomb", "do not trust it")
            text = _labels_file(file, listed, where) if labels else None
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        what = f"is no readable .zip file: {error or type(error).__name__}"
        raise UserError(where, what, "fetch the archive again") from error
    if not images:
        raise UserError(where, "holds no images", "name an archive with images")
    names = tuple(each.filename for each in images)
    if len(set(names)) < len(names):
        raise UserError(where, "has two images of one name", "write the archive again")
    places = [_place(each) for each in images]
    found = _labels(text, names, label, where) if labels else None
    return Index(names, np.array(places, np.int64), found)


class _Seekable(io.RawIOBase):
    """What zipfile reads the list of members from."""

    def __init__(self, file: RandomAccess) -> None:
        self._file, self._at = file, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._at, self._file.size)[whence]
        if start + offset < 0:
            raise ValueError("a place before its beginning")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._at)
        data = self._file.read(self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data


def _by_name(member: zipfile.ZipInfo) -> str:
    return member.filename


def _is_image(member: zipfile.ZipInfo, where: str) -> bool:
    check_member_name(member.filename, where)
    if (member.external_attr >> 16) & _TYPE == _LINK:
        what = f"has a link, {member.filename[:200]!r}"
        raise UserError(where, what, "write the archive again, with nothing but files in it")
    path = PurePosixPath(member.filename)
    hidden = path.parts[0].startswith((".", "__MACOSX")) if path.parts else True
    return path.suffix.lower() in SUFFIXES and not (member.is_dir() or hidden)


def _place(member: zipfile.ZipInfo) -> tuple[int, ...]:
    method = -1 if member.flag_bits & _ENCRYPTED else member.compress_type
    return (member.header_offset, member.compress_size, member.file_size, method, member.CRC)


def _labels_file(file: RandomAccess, listed: list[zipfile.ZipInfo], where: str) -> bytes | None:
    found = next((each for each in listed if each.filename == EDM), None)
    if found is None:
        return None
    if found.file_size > TEXT_LIMIT:
        what = f"has a {EDM} of {found.file_size:,} bytes"
        raise UserError(where, what, f"keep it below {TEXT_LIMIT:,}, or write shards")
    try:
        return read_zip(file, *_place(found))
    except (ValueError, zlib.error) as error:
        raise UserError(where, f"has a damaged {EDM}: {error}", "fetch it again") from error


def _labels(
    text: bytes | None, names: tuple[str, ...], label: str | None, where: str
) -> tuple[Any, ...] | None:
    """The label of each image; None = there are none."""
    if text is None:
        if label is not None:
            raise UserError(where, f"has no {EDM} with a list `{label}`", "set label: null")
        return None
    try:
        content = json.loads(text)
        pairs = content[label or "labels"]
        known = None if pairs is None else dict(pairs)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"has a {EDM} without `{label or 'labels'}`, pairs of name and label: {error}"
        raise UserError(where, what[:300], "write it as StyleGAN's dataset_tool.py does") from error
    if known is None:
        return None
    odd = [
        name
        for name, value in known.items()
        if isinstance(value, bool) or not isinstance(value, int | float | str | None)
    ]
    if odd:
        what = f"has labels that are no numbers in its {EDM}, the first of {odd[0][:200]!r}"
        raise UserError(where, what, "give each image one number")
    return tuple(known.get(name) for name in names)
