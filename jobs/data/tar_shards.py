"""Reads WebDataset's shards: .tar files in which the files of a sample follow each other.

`0001.jpg`, `0001.cls`, `0001.json` are one sample, `0001`; what the name has after its first point
says what each is. `.cls` is the number (or name) of the class, `.json` a mapping with a `label`,
`.txt` a caption, which images alone do not need.

Source: POSIX.1-1988 (ustar), POSIX.1-2001 (pax), and GNU's long names and large numbers; grouping
as in webdataset's `tariterators.group_by_keys`.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.folders import SUFFIXES
from slimctl.jobs.data.index import (
    ENCODED_LIMIT,
    TEXT_LIMIT,
    Index,
    check_member_name,
    label_of_json,
)
from slimctl.jobs.data.label_files import LABEL_COLUMNS, no_column
from slimctl.jobs.data.random_access import Place, RandomAccess, RemoteFile

_BLOCK = 512
_EMPTY = bytes(_BLOCK)
_SPACES = 8 * 32
"""What the checksum itself counts as."""
_NAME_LIMIT = 2**20
"""Bytes of a long name or of a pax header."""
_CLASS_LIMIT = 4096
"""Bytes of the text that says a class."""
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_FILES = (b"0", b"\0", b"7")
_FIX = "write the shard again, with nothing but files in it"


class _File(NamedTuple):
    name: str
    at: int
    size: int


def read_tar(file: RandomAccess, at: int, size: int) -> bytes:
    """The bytes of a member.

    Raises:
        ValueError: there is none, or it is larger than any image.
        OSError: it cannot be read.
    """
    if size < 0:
        raise ValueError("no image in the sample")
    if size > ENCODED_LIMIT:
        raise ValueError(f"{size:,} bytes, more than an image has")
    return file.read(at, size)


def index_tar(place: Place, label: str | None = None, *, labels: bool = True) -> Index:
    """Finds the samples of a shard.

    Args:
        place: the shard.
        label: what says the class: `cls`, `txt`, or a field of the .json; None = `cls`, else
            `label` or `labels` of the .json.
        labels: whether labels are wanted at all.

    Raises:
        UserError: it is no .tar, is cut off, has links or names that lead out of it, or two
            files or images where a sample has one.
    """
    where = place.uri if isinstance(place, RemoteFile) else str(place)
    names, places, found = [], [], []
    columns: set[str] = set()
    try:
        with RandomAccess(place) as file:
            for key, parts in _samples(_files(file, where), where):
                image = _image_of(parts, key, where)
                names.append(key)
                places.append((image.at, image.size) if image else (0, -1))
                if labels:
                    found.append(_label(file, parts, label, f"{where}: {key}"))
                columns.update(parts)
    except OSError as error:
        raise UserError(where, f"cannot be read: {error}", "fetch the shard again") from error
    if not any(size >= 0 for _, size in places):
        held = ", ".join(sorted(columns)[:10]) or "nothing"
        raise UserError(where, f"holds no images; it has {held}", "name shards with images")
    without = all(value is None for value in found)
    if labels and without and label is not None:
        raise no_column(where, label, sorted(columns))
    array = np.array(places, np.int64).reshape(-1, 2)
    return Index(tuple(names), array, None if without else tuple(found))


def _files(file: RandomAccess, where: str) -> Iterator[_File]:
    """The files of a .tar in their order."""
    at, long_name, pax = 0, "", dict[str, str]()
    while at < file.size:
        header = file.read(at, _BLOCK)
        if header == _EMPTY:
            return  # the mark of the end; without it the rest is missing
        size, kind = _checked(header, where, at), header[156:157]
        body = at + _BLOCK
        if kind in (b"x", b"L", b"K", b"g"):
            if size > _NAME_LIMIT:
                raise UserError(where, f"has a header of {size:,} bytes at byte {at:,}", _FIX)
            text = file.read(body, size)
            if kind == b"x":
                pax = _pax(text, where)
            elif kind == b"L":
                long_name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
        else:
            name = check_member_name(pax.get("path") or long_name or _name(header), where)
            size = int(pax["size"]) if pax.get("size", "").isdecimal() else size
            if kind in _FILES:
                _check_inside(name, body + size, file.size, where)
                yield _File(name, body, size)
            elif kind != b"5":  # a folder
                what = f"has {_KINDS.get(kind, 'an entry of no known type')}, {name[:200]!r}"
                raise UserError(where, what, _FIX)
            long_name, pax = "", {}
        at = body + -(-size // _BLOCK) * _BLOCK
    raise UserError(where, "ends within a file, or before its end", "fetch the shard again")


def _checked(header: bytes, where: str, at: int) -> int:
    """The size that a header says.

    Raises:
        UserError: it is no header.
    """
    if len(header) < _BLOCK:
        raise UserError(where, f"ends within a header, at byte {at:,}", "fetch the shard again")
    try:
        expected = _number(header[148:156])
        size = _number(header[124:136])
    except ValueError:
        expected = size = -1
    if size < 0 or sum(header) - sum(header[148:156]) + _SPACES != expected:
        packed = header[:2] == b"\x1f\x8b" or header[:4] == b"\x28\xb5\x2f\xfd"
        what = "is compressed as a whole" if packed else f"is no .tar file at byte {at:,}"
        fix = "unpack it to a .tar: images do not shrink" if packed else "fetch the shard again"
        raise UserError(where, what, fix)
    return size


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or as GNU writes large ones."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:])
    digits = field.split(b"\0", 1)[0].strip()
    return int(digits, 8) if digits else 0


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345:346] != b"\0":
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _pax(text: bytes, where: str) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a pax header."""
    found: dict[str, str] = {}
    while text:
        length, _, _ = text.partition(b" ")
        if not re.fullmatch(rb"[1-9][0-9]{0,7}", length) or int(length) > len(text):
            raise UserError(where, "has a damaged pax header", "fetch the shard again")
        key, _, value = text[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        text = text[int(length) :]
    return found


def _check_inside(name: str, end: int, size: int, where: str) -> None:
    if end > size:
        what = f"ends within {name[:200]!r}: {end - size:,} bytes are missing"
        raise UserError(where, what, "fetch the shard again")


def _samples(files: Iterator[_File], where: str) -> Iterator[tuple[str, dict[str, _File]]]:
    """Files that follow each other under one key, by what they are."""
    seen: set[str] = set()
    key, parts = "", dict[str, _File]()
    for file in files:
        folder, slash, base = file.name.removeprefix("./").rpartition("/")
        stem, point, ending = base.partition(".")
        if not (stem and point) or folder.startswith("__MACOSX"):
            continue
        of = f"{folder}{slash}{stem}"
        if of != key:
            if parts:
                yield key, parts
            if of in seen:
                what = f"has the sample {of!r} twice"
                raise UserError(where, what, "keep the files of a sample together, each key once")
            seen.add(of)
            key, parts = of, {}
        if ending.lower() in parts:
            raise UserError(where, f"has {file.name!r} twice", "give each sample a key of its own")
        parts[ending.lower()] = file
    if parts:
        yield key, parts


def _image_of(parts: dict[str, _File], key: str, where: str) -> _File | None:
    images = [ending for ending in parts if f".{ending}" in SUFFIXES]
    if len(images) > 1:
        what = f"has several images in sample {key!r}: {', '.join(sorted(images))}"
        raise UserError(where, what, "call all but one otherwise, such as KEY.mask.png")
    return parts[images[0]] if images else None


def _label(file: RandomAccess, parts: dict[str, _File], label: str | None, where: str) -> Any:
    """Number or word of a sample's class; None = it has none."""
    chosen = label or ("cls" if "cls" in parts else "json")
    try:
        if chosen in parts and chosen != "json":
            return _as_label(_text(file, parts[chosen], _CLASS_LIMIT))
        if "json" in parts:
            fields = LABEL_COLUMNS if label in (None, "json") else (label,)
            return label_of_json(_text(file, parts["json"], TEXT_LIMIT), fields)
    except ValueError as error:
        fix = "repair the sample's label, or set labels: false"
        raise UserError(where, f"has {error}", fix) from error
    return None


def _text(file: RandomAccess, part: _File, limit: int) -> bytes:
    if part.size > limit:
        raise ValueError(f"{part.size:,} bytes where a label is meant")
    return file.read(part.at, part.size)


def _as_label(text: bytes) -> int | str | None:
    try:
        word = text.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("a label that is no text") from None
    if not word:
        return None
    return int(word) if re.fullmatch(r"-?[0-9]{1,18}", word) else word
