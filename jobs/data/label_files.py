"""Files beside images that say their labels: what the names of folders look like counts for less.

`dataset.json` is StyleGAN's and EDM's: `{"labels": [["00000/img0.png", 6], ...]}`, where null says
that there are none. `metadata.jsonl` and `metadata.csv` are those of Hugging Face's imagefolder: a
row per image, whose column `file_name` is relative to the file.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slimctl.jobs.base.errors import UserError, listed

EDM = "dataset.json"
ROWS = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
LABEL_COLUMNS = ("label", "labels")
"""Names of the labels where the user gives none, the first that is there."""

Entries = dict[str, Any]
"""File name relative to the file, with slashes -> label as it stands there."""


class LabelFile(NamedTuple):
    """What a file says of the images beside it."""

    path: Path
    entries: Entries | None
    """None = it says that, or does not say which, labels there are."""
    columns: tuple[str, ...]
    """What it has beside the names of the images."""

    def labels(self, files: Sequence[Path]) -> list[Any]:
        """The label of each file as it stands there; None = it does not name that one."""
        entries = self.entries or {}
        root = self.path.parent
        return [entries.get(file.relative_to(root).as_posix()) for file in files]


def find_label_file(folders: Sequence[Path], label: str | None) -> LabelFile | None:
    """The first file in any of the folders that is one of these.

    Raises:
        UserError: it is damaged, or has no such labels.
    """
    for folder in folders:
        if (folder / EDM).is_file():
            found = _read_edm(folder / EDM, label)
            if found:
                return found
        for name in ROWS:
            if (folder / name).is_file():
                return _read_rows(folder / name, label)
    return None


def in_numbers(values: Sequence[Any]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Labels as numbers, NaN where there is none, and the classes' names where those are words.

    Words are numbered in their order; text that is whole numbers throughout, as in any .csv, is
    numbers.
    """
    given = [value for value in values if value not in (None, "")]
    if all(map(_is_number, given)):
        return tuple(math.nan if value in (None, "") else float(value) for value in values), ()
    names = tuple(sorted({str(value) for value in given}))
    numbers = {name: float(number) for number, name in enumerate(names)}
    return tuple(numbers.get(str(value), math.nan) for value in values), names


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?[0-9]+", value) is not None
    return not isinstance(value, bool)


def _read_edm(path: Path, label: str | None) -> LabelFile | None:
    """StyleGAN's file; None if it is another of that name."""
    try:
        content = json.loads(path.read_text("utf-8-sig", "surrogateescape"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict) or (label or "labels") not in content:
        return None
    found, columns = content[label or "labels"], tuple(map(str, content))
    if found is None:
        return LabelFile(path, None, columns)
    try:
        pairs = found.items() if isinstance(found, dict) else found
        entries = {str(name).replace("\\", "/"): value for name, value in pairs}
    except (TypeError, ValueError) as error:
        raise _damaged(path, f"its labels are no pairs of name and label: {error}") from error
    return LabelFile(path, _plain(path, entries), columns)


def _read_rows(path: Path, label: str | None) -> LabelFile:
    try:
        rows = list(_rows(path))
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise _damaged(path, error) from error
    columns = tuple(dict.fromkeys(str(key) for row in rows for key in row))
    if FILE_NAME not in columns:
        held = listed(columns, len(columns)) or "nothing"
        what = f"has no column `{FILE_NAME}`; it has {held}"
        raise UserError(str(path), what, f"name the column of the images {FILE_NAME}")
    others = tuple(name for name in columns if name != FILE_NAME)
    known = [name for name in ([label] if label else LABEL_COLUMNS) if name in others]
    if not known:
        if label:
            raise no_column(str(path), label, others)
        return LabelFile(path, None, others)
    entries = {
        str(row[FILE_NAME]).replace("\\", "/").removeprefix("./"): row.get(known[0])
        for row in rows
        if row.get(FILE_NAME)
    }
    return LabelFile(path, _plain(path, entries), others)


def no_column(where: str, label: str, columns: Sequence[str]) -> UserError:
    """The error for a column of labels that is not there, with those that are."""
    held = listed((f"`{name}`" for name in columns), len(columns)) or "none"
    fix = "set label to one of them, or to null"
    return UserError(where, f"has no column `{label}`; it has {held}", fix)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file.

    Raises:
        OSError, ValueError, csv.Error: it cannot be read, or a line is no row.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
            return
        for line in filter(str.strip, file):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"a line is no mapping: {line[:40].strip()}")  # noqa: TRY004
            yield row


def _plain(path: Path, entries: Entries) -> Entries:
    """The entries, if each label is a number or a word."""
    odd = [n for n, value in entries.items() if not isinstance(value, int | float | str | None)]
    if odd:
        raise UserError(
            str(path),
            f"{len(odd):,} of {len(entries):,} labels are lists or mappings: "
            f"{listed(odd, len(odd))}",
            "give each image one label, or move the file away to read the images without labels",
        )
    return entries


def _damaged(path: Path, error: object) -> UserError:
    return UserError(
        str(path), f"cannot be read: {error}", "write it again, or move it out of the folder"
    )
