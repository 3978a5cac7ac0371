"""Finds what a source is and which files belong to it, without opening an image.

The plan asks this of every data set, since the content of these files is the key of the result.
Only the word `digits` names no path; a folder of that name is `./digits`.
"""

import json
import os
import re
import time
import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from slimctl.jobs.base.errors import UserError, listed
from slimctl.jobs.base.fingerprint import MANY
from slimctl.jobs.data.folders import (
    FolderImages,
    Remark,
    find_images,
    in_words,
    only_images,
    visible,
)
from slimctl.jobs.data.random_access import Place, RemoteFile, remote_files

DIGITS = "digits"
"""The source that scikit-learn brings along."""
ARRAY_SUFFIXES = (".npz", ".npy")
TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCHES = ("test_batch",)
BATCH_FOLDER = "cifar-10-batches-py"
"""Name of the folder in CIFAR-10's archive; its parent will do as a source, too."""
BATCH_NAMES = "batches.meta"
"""The file beside CIFAR-10's batches that has the names of the classes."""
CIFAR_100_FOLDER = "cifar-100-python"
CIFAR_100_NAMES = "meta"
CIFAR_100 = ("train", "test")
"""Its batches, one file each, beside `meta`."""

WINDOWS = re.compile(r"[A-Za-z]:[\\/]")

TAR, ZIP, ARROW = ".tar", ".zip", ".arrow"
NUMBERS = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")
"""Numbers in braces, as bash and WebDataset write them: `{000..099}`."""
KEPT_S = 60.0
"""How long the list of more than `MANY` files is taken for what is there: a plan asks for it
several times, and it takes as long as all the rest."""
_KEPT: "dict[tuple[object, ...], tuple[ImageSource, float]]" = {}
MOST_SHARDS = 1_000_000
STATE = "state.json"
"""The file in which Hugging Face's `datasets` keeps the order of its Arrow files."""

Reader = Literal["digits", "parquet", "images", "batches", "array", "tar", "zip", "arrow"]


class ImageSource(NamedTuple):
    """A source, recognised."""

    reader: Reader
    root: Path
    """The file or folder that names are relative to."""
    files: tuple[Path, ...]
    """Every file that counts, in the order in which they are read."""
    words: str
    """The source in words."""
    labels: tuple[float, ...] | None = None
    """Class of each file of a folder of images, NaN where it is not known."""
    class_names: tuple[str, ...] = ()
    """Names of the classes of a folder of images."""
    label_files: tuple[Path, ...] = ()
    """Files beside the images that say their labels."""
    label: str | None = None
    """Name of the column of the labels; None = the usual ones."""
    remarks: tuple[Remark, ...] = ()
    """What the user should know of how it is read."""

    remote: tuple[RemoteFile, ...] = ()
    """Every file that counts, where they are in an object store."""

    @property
    def content(self) -> tuple[Path, ...]:
        """Every local file that the result depends on."""
        return (*self.files, *self.label_files)

    @property
    def places(self) -> tuple[Place, ...]:
        """Every file that counts, wherever it is."""
        return self.remote or self.files

    def larger_than(self, limit: int) -> bool:
        """Whether all files that count have more bytes; very many are taken to, and remote ones."""
        if self.remote or len(self.files) > MANY:
            return True
        return sum(file.stat().st_size for file in self.files) > limit


def find_source(source: str, split: str | None = None, label: str | None = None) -> ImageSource:
    """Recognises a source and lists its files.

    Args:
        source: `digits`, or a path: of a Parquet file, of WebDataset's .tar shards (local, or
            `s3://...`), of a folder or a pattern (`*`, `{000..099}`) of either, of EDM's .zip, of
            a folder of Hugging Face's Arrow files, of images or of CIFAR's python batches, or of
            an .npz or .npy file.
        split: part of it: the Parquet files or the subfolder of that name, or CIFAR-10's `train`
            or `test`; None = all.
        label: column of the labels, where there are columns; None = the usual ones.

    Raises:
        UserError: there is no such source, it is none of these, it is empty, or has no such part.
    """
    if source == DIGITS:
        _refuse_split(DIGITS, split)
        if label is not None:
            raise UserError(DIGITS, f"has no columns, but label is '{label}'", "set label: null")
        return ImageSource("digits", Path(), (), "scikit-learn's digits")
    path = Path(source).expanduser() if source.startswith("~/") else Path(source)
    asked = (source, split, label, str(Path.cwd()))
    kept, at = _KEPT.get(asked, (None, 0.0))
    if kept is not None and time.monotonic() < at + KEPT_S:
        return kept
    try:
        found = _find_path(source, path, split, label)._replace(label=label)
    except PermissionError as error:
        raise UserError(source, f"may not be read: {error}", "give yourself the right") from error
    if len(found.files) > MANY:
        _KEPT.clear()
        _KEPT[asked] = found, time.monotonic()
    return found


def _find_path(source: str, path: Path, split: str | None, label: str | None) -> ImageSource:
    if not source:
        raise UserError("source", "is empty", f"name a local path, or {DIGITS}")
    if "://" in source:
        return _find_remote(source, split)
    if NUMBERS.search(source):
        return _find_numbered(source, split)
    if path.is_dir():
        return _find_in_folder(path, split, label)
    if path.exists():
        return _find_file(path, split)
    if _has_wildcard(path):
        return _find_by_pattern(path, split)
    raise _missing(path)


def _find_file(path: Path, split: str | None) -> ImageSource:
    if path.suffix == ".parquet":
        return _parquet(path, [path], split)
    if path.suffix == ARROW:
        _refuse_split(str(path), split)
        return ImageSource("arrow", path, (path,), f"Arrow file {path.name}")
    if path.suffix == TAR:
        return _tar(path, [path], split)
    if path.suffix == ZIP and zipfile.is_zipfile(path):
        _refuse_split(str(path), split)
        return ImageSource("zip", path, (path,), f"archive {path.name}")
    if path.suffix in ARRAY_SUFFIXES:
        _refuse_split(str(path), split)
        return ImageSource("array", path, (path,), f"array file {path.name}")
    raise UserError(
        str(path),
        "is no file of images that can be read",
        "name a .parquet, .arrow, .tar, .zip, .npz or .npy file or a folder; unpack other archives "
        "first",
    )


def _find_by_pattern(pattern: Path, split: str | None) -> ImageSource:
    root = next(parent for parent in pattern.parents if not _has_wildcard(parent))
    matches = sorted(root.glob(str(pattern.relative_to(root))))
    files = [path for path in matches if not _is_hidden(path, root)]
    if not files:
        raise UserError(str(pattern), "no file has such a name", "check the pattern")
    return _find_files(str(pattern), root, files, split)


def _find_files(pattern: str, root: Path, files: Sequence[Path], split: str | None) -> ImageSource:
    """Files of one kind that a pattern names."""
    ending = TAR if files[0].suffix == TAR else ".parquet"
    others = [str(path) for path in files if path.suffix != ending or not path.is_file()]
    if others:
        allowed = "shards only" if ending == TAR else "Parquet files only"
        what = f"a pattern may name {allowed}, not {listed(others, len(others))}"
        fix = f"end it in {ending}, or name a folder; .tar shards have patterns, too"
        raise UserError(pattern, what, fix)
    return (_tar if ending == TAR else _parquet)(root, files, split)


def _find_numbered(source: str, split: str | None) -> ImageSource:
    """The files that numbers in braces name, each of which has to be there."""
    home = source.startswith("~/")
    files = [Path(each).expanduser() if home else Path(each) for each in expanded(source)]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        what = f"{len(missing):,} of {len(files):,} files are not there: "
        held = listed(missing, len(missing))
        raise UserError(source, what + held, "check the path and the numbers in braces")
    root = next(parent for parent in Path(source).parents if not NUMBERS.search(str(parent)))
    return _find_files(source, root, files, split)


def _find_remote(source: str, split: str | None) -> ImageSource:
    _refuse_split(source, split)
    uris = expanded(source)
    if "*" in source or not all(uri.endswith(TAR) for uri in uris):
        what = "is a URI, of which only .tar shards are read"
        fix = f"name them, such as s3://bucket/{{000..099}}.tar, or name a local path, or {DIGITS}"
        raise UserError(source, what, fix)
    files = tuple(remote_files(source, uris))
    return ImageSource("tar", Path(source), (), _shards_in_words(len(files)), remote=files)


def expanded(pattern: str) -> list[str]:
    """The names that numbers in braces stand for: `{08..10}` is 08, 09, 10.

    Raises:
        UserError: they run backwards, or are more than a million.
    """
    found = NUMBERS.search(pattern)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    count = last - first + 1
    if not 0 < count <= MOST_SHARDS:
        raise UserError(pattern, f"{found[0]} stands for {count:,} names", "check the numbers")
    width = len(found[1]) if found[1].startswith("0") or len(found[1]) == len(found[2]) else 0
    rest = expanded(pattern[found.end() :])
    if count * len(rest) > MOST_SHARDS:
        raise UserError(pattern, f"stands for {count * len(rest):,} names", "check the numbers")
    return [
        f"{pattern[: found.start()]}{number:0{width}d}{end}"
        for number in range(first, last + 1)
        for end in rest
    ]


def _find_in_folder(path: Path, split: str | None, label: str | None) -> ImageSource:
    for folder in (path, path / BATCH_FOLDER):
        if any((folder / name).is_file() for name in (TRAIN_BATCHES + TEST_BATCHES)):
            return _batches(folder, split)
    for folder in (path, path / CIFAR_100_FOLDER):
        if (folder / CIFAR_100_NAMES).is_file() and any(
            (folder / name).is_file() for name in CIFAR_100
        ):
            return _cifar_100(folder, split)
    tables, others = _files_of_sets(path)
    if tables:
        _refuse_images_beside(path)
        return _parquet(path, tables, split)
    if others and not _images_near(path):
        return (_tar if others[0].suffix == TAR else _arrow)(path, others, split)
    if split is not None:
        _check_part(path, split)
    return _images(path, find_images(path, split, label))


def _images(path: Path, found: FolderImages) -> ImageSource:
    classes = "unlabelled"
    if found.labels is not None:
        classes = f"{len(found.class_names) or len(set(found.labels)):,} classes"
    notes = [f"labels of {listed((f.name for f in found.label_files), len(found.label_files))}"]
    notes = notes if found.labels is not None and found.label_files else []
    number, remarks = sum(found.left_out.values()), found.remarks
    if number:
        left_out = f"{number:,} of {number + len(found.files):,} files left out"
        notes.append(f"{left_out}: {in_words(found.left_out)}")
        fix = "turn them into images that are read, fix the links, or move them out of the folder"
        remarks = (*remarks, Remark(notes[-1], fix))
    words = f"folder of {len(found.files):,} images, {classes}"
    return ImageSource(
        "images",
        path,
        found.files,
        f"{words} ({'; '.join(notes)})" if notes else words,
        found.labels,
        found.class_names,
        found.label_files,
        remarks=remarks,
    )


def _parquet(root: Path, files: Sequence[Path], split: str | None) -> ImageSource:
    chosen = _of_split(root, files, split, "Parquet file")
    noun = "file" if len(chosen) == 1 else "files"
    return ImageSource("parquet", root, tuple(chosen), f"{len(chosen):,} Parquet {noun}")


def _tar(root: Path, files: Sequence[Path], split: str | None) -> ImageSource:
    chosen = _of_split(root, files, split, "shard")
    return ImageSource("tar", root, tuple(chosen), _shards_in_words(len(chosen)))


def _shards_in_words(count: int) -> str:
    return f"{count:,} shard{'s'[count == 1 :]} of a WebDataset"


def _arrow(root: Path, files: Sequence[Path], split: str | None) -> ImageSource:
    """The folder that `datasets` saves, with its files in the order that it keeps."""
    chosen = _of_split(root, files, split, "Arrow file")
    folders = dict.fromkeys(path.parent for path in chosen)
    ordered = [path for folder in folders for path in _in_kept_order(folder, chosen)]
    noun = "file" if len(chosen) == 1 else "files"
    return ImageSource("arrow", root, tuple(ordered), f"{len(chosen):,} Arrow {noun}")


def _in_kept_order(folder: Path, files: Sequence[Path]) -> list[Path]:
    """The files of a folder as its `state.json` names them; by name where there is none."""
    here = [path for path in files if path.parent == folder]
    state = folder / STATE
    if not state.is_file():
        return here
    try:
        names = [each["filename"] for each in json.loads(state.read_text())["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"is no state of a data set: {type(error).__name__}"
        raise UserError(str(state), what, "save the data set again, or remove this file") from error
    known = {path.name: path for path in here}
    missing = [str(name) for name in names if name not in known]
    if missing:
        held = listed(missing, len(missing))
        raise UserError(str(state), f"names files that are not there: {held}", "copy them, too")
    return [known[name] for name in names]


def _of_split(root: Path, files: Sequence[Path], split: str | None, noun: str) -> list[Path]:
    chosen = [path for path in files if split is None or _belongs(path, root, split)]
    if not chosen:
        names = (path.name for path in files)
        raise UserError(
            str(root),
            f"no {noun} belongs to split '{split}': {listed(names, len(files))}",
            "set split to the word that the names of its files begin with, or to null for all",
        )
    return chosen


def _belongs(path: Path, root: Path, split: str) -> bool:
    """Whether a file is called `train.parquet` or `train-00000-of-00005.parquet`, or lies so."""
    folders = () if path == root else path.relative_to(root).parts[:-1]
    return split in folders or re.split(r"[-_.]", path.stem)[0] == split or path.stem == split


def _files_of_sets(path: Path) -> tuple[list[Path], list[Path]]:
    """The Parquet files below a folder; and its shards, or else its Arrow files."""
    found: dict[str, list[Path]] = {".parquet": [], ARROW: [], TAR: []}
    for folder, below, names in os.walk(path, onerror=_raised):
        below[:] = [name for name in below if name[0] != "."]
        for name in names:
            ending = os.path.splitext(name)[1]  # noqa: PTH122  (of a million names)
            if ending in found and name[0] != ".":
                found[ending].append(Path(folder, name))
    tables, arrow, tar = map(sorted, found.values())
    return tables, tar or arrow


def _raised(error: OSError) -> None:
    raise error


def _images_near(path: Path) -> list[str]:
    """Images in a folder or directly in one of its own folders."""
    folders = [path, *(entry for entry in visible(path) if entry.is_dir())]
    return [str(image) for folder in folders for image in only_images(visible(folder))]


def _refuse_images_beside(path: Path) -> None:
    """Refuses a folder of Parquet files that has images as well: either may be what is meant."""
    images = _images_near(path)
    if images:
        raise UserError(
            str(path),
            f"holds Parquet files beside images: {listed(images, len(images))}",
            f"name the one or the other, such as {path / '**' / '*.parquet'}",
        )


def _batches(folder: Path, split: str | None) -> ImageSource:
    parts = {None: TRAIN_BATCHES + TEST_BATCHES, "train": TRAIN_BATCHES, "test": TEST_BATCHES}
    files = _batch_files(folder, split, parts, "CIFAR-10")
    names = folder / BATCH_NAMES
    files += [names] if names.is_file() else []
    return ImageSource("batches", folder, tuple(files), "CIFAR-10's python batches")


def _cifar_100(folder: Path, split: str | None) -> ImageSource:
    parts = {None: CIFAR_100, "train": ("train",), "test": ("test",)}
    files = [*_batch_files(folder, split, parts, "CIFAR-100"), folder / CIFAR_100_NAMES]
    return ImageSource("batches", folder, tuple(files), "CIFAR-100's python batches")


def _batch_files(
    folder: Path, split: str | None, parts: Mapping[str | None, Sequence[str]], name: str
) -> list[Path]:
    if split not in parts:
        raise UserError(
            str(folder), f"{name} has no split '{split}'", "set split: train or split: test"
        )
    files = [folder / name for name in parts[split]]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise UserError(
            str(folder),
            f"{name}'s python batches are incomplete without {', '.join(missing)}",
            "unpack the archive again, or set split to the part that is there",
        )
    return files


def _check_part(path: Path, split: str) -> None:
    folders = [entry.name for entry in visible(path) if entry.is_dir()]
    if split in folders:
        return
    held = listed(folders, len(folders)) if folders else "no folders at all"
    fix = _did_you_mean(split, folders) or "set split: null to read all of it"
    raise UserError(str(path), f"has no folder for split '{split}'; it holds {held}", fix)


def _refuse_split(where: str, split: str | None) -> None:
    if split is not None:
        raise UserError(where, f"has no parts, but split is '{split}'", "set split: null")


def _has_wildcard(path: Path) -> bool:
    return any(sign in str(path) for sign in "*?[")


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _missing(path: Path) -> UserError:
    """The error for a path that is not there, with what is there instead."""
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir():
        return UserError(str(path), f"{parent} is a file, not a folder", "check the path")
    names = [entry.name for entry in visible(parent)]
    fix = _did_you_mean(path.relative_to(parent).parts[0], names, parent)
    if path.name == str(path) and get_close_matches(path.name, [DIGITS]):
        fix = f"did you mean {DIGITS}?"
    if "$" in str(path):
        fix = "variables of a shell do not count in here: write what it stands for"
    if WINDOWS.match(str(path)):
        fix = "this is a path of Windows, and here is none: write the path of this system"
    held = listed(names, len(names)) or "nothing"
    return UserError(str(path), "there is no such file or folder", fix or f"{parent} holds {held}")


def _did_you_mean(name: str, names: Sequence[str], parent: Path | None = None) -> str:
    close = get_close_matches(name, names, 1)
    return f"did you mean {parent / close[0] if parent else close[0]}?" if close else ""
