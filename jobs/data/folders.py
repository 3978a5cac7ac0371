"""Which images a folder holds, and what says which class each is of.

The first of these that applies: a file of labels beside them (`jobs/data/label_files.py`); folders
that are parts of the set (`train`, `test`), each read by itself; numbered folders, into which FFHQ
and StyleGAN divide large sets, and which say nothing; a subfolder per class; a flat folder without
labels. Classes are the subfolders in the order of their names. Their images are interleaved (the
first of each class, the second of each, ...), so that the first n of a data set are never all of
one class.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from slimctl.jobs.base.errors import UserError, listed, printable
from slimctl.jobs.data.label_files import EDM, LabelFile, find_label_file, in_numbers

# fmt: off
SUFFIXES = frozenset({
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".webp", ".bmp", ".gif",
    ".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c",
    ".pbm", ".pgm", ".ppm", ".pnm", ".qoi", ".bw", ".rgb", ".rgba", ".sgi", ".pcx", ".psd", ".ico",
})
# fmt: on
"""Endings, in lower case, of the files that are taken for images."""
PARTS = (
    *("train", "training", "trainset", "train_images", "val", "valid", "validation", "dev"),
    *("test", "testing", "testset", "test_images", "eval", "evaluation"),
)
"""Names, in lower case, of folders that are parts of a set, in the order in which they are read."""
NUMBERED_DIGITS = 5
"""Digits from which a number is no class by itself: FFHQ writes 00000, 01000; EDM 00000, 00001."""


class Remark(NamedTuple):
    """What the user should know of how a source is read."""

    what: str
    fix: str


class FolderImages(NamedTuple):
    """The image files of a folder, in the order in which they are read."""

    files: tuple[Path, ...]
    labels: tuple[float, ...] | None = None
    """Number of each file's class, NaN where a file of labels has none; None = unlabelled."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; () = they are numbers."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Files that are not read: ending or reason -> how many."""
    label_files: tuple[Path, ...] = ()
    """Files that say the labels."""
    remarks: tuple[Remark, ...] = ()


def find_images(root: Path, split: str | None = None, label: str | None = None) -> FolderImages:
    """Lists the images of a folder.

    Args:
        root: the folder.
        split: subfolder to read; None = all of it.
        label: what the labels are called in a file of labels; None = as usual.

    Raises:
        UserError: there are no images, or it cannot be known what is meant.
    """
    folder = root if split is None else root / split
    parts = _parts(folder)
    above = [folder] if split is None else [folder, root]
    if not parts:
        return _find_part(folder, above, label)
    found = {part: _find_part(part, [part, *above], label) for part in parts}
    used = [one.label_files for one in found.values()]
    outside = set(_files(folder)).difference(*map(_files, parts), *used)
    return _joined(folder, found, _left_out(outside))


def visible(folder: Path) -> list[Path]:
    """What a folder holds in the order of the names, without what the system hides there."""
    hidden = ("__MACOSX", "Thumbs.db", "desktop.ini")
    return sorted(
        path for path in folder.iterdir() if path.name[0] != "." and path.name not in hidden
    )


def only_images(paths: Sequence[Path]) -> list[Path]:
    """Those that are files and images by their ending."""
    return [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]


def _files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every visible file below a folder, in the order of the names."""
    real = folder.resolve()
    if real in above:
        return
    for path in visible(folder):
        if path.is_dir():
            yield from _files(path, (*above, real))
        else:
            yield path


def _left_out(files: Iterable[Path]) -> Counter[str]:
    """How many files there are of each ending, links to nothing apart."""
    return Counter(
        (printable(path.suffix.lower()) or "without an ending")
        if path.exists()
        else "links to nothing"
        for path in sorted(files)
    )


def _parts(folder: Path) -> list[Path]:
    """The subfolders that are parts of the set; [] if any that holds images is none."""
    entries = visible(folder)
    folders = [path for path in entries if path.is_dir()]
    if only_images(entries) or not any(path.name.lower() in PARTS for path in folders):
        return []
    held = [path for path in folders if only_images(list(_files(path)))]
    if any(path.name.lower() not in PARTS for path in held):
        return []
    return sorted(held, key=lambda path: PARTS.index(path.name.lower()))


def _find_part(folder: Path, above: Sequence[Path], label: str | None) -> FolderImages:
    """The images of a folder that has no parts.

    Args:
        folder: the folder.
        above: folders that may hold a file of labels, the nearest first.
        label: what the labels are called in it.
    """
    source = find_label_file(above, label)
    found = _by_label_file(folder, source) if source else None
    if found:
        return found
    if label:
        what = f"has no file of labels that could have a `{label}`"
        raise UserError(str(folder), what, "set label: null, or add a metadata.csv")
    entries = visible(folder)
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if not path.is_dir()]
    images = only_images(files)
    if not folders:
        if not images:
            raise _no_images(folder, files)
        return FolderImages(tuple(images), left_out=_left_out({*files} - {*images}))
    if images:
        raise UserError(
            str(folder),
            f"holds {len(images):,} images beside {len(folders):,} folders",
            "put every image into the folder of its class, or all into one folder without others",
        )
    return _find_numbered(folders, files) or _find_classes(folder, folders, files)


def _by_label_file(folder: Path, source: LabelFile) -> FolderImages | None:
    """The images of a folder with the labels of a file; None if that speaks of something else."""
    every = list(_files(folder))
    images = only_images(every)
    if not images:
        raise _no_images(folder, every)
    left_out = _left_out({*every} - {*images, source.path})
    held = FolderImages(tuple(images), left_out=left_out, label_files=(source.path,))
    if source.entries is None:
        return held._replace(remarks=tuple(_unlabelled(source)))
    values = source.labels(images)
    if source.path.name == EDM and not any(value is not None for value in values):
        return None
    labels, names = in_numbers(values)
    return held._replace(labels=labels, class_names=names)


def _unlabelled(source: LabelFile) -> Iterator[Remark]:
    """Says which columns a file has where none of them is taken for the label."""
    if source.path.suffix != ".json":
        held = listed((f"`{name}`" for name in source.columns), len(source.columns)) or "none other"
        yield Remark(
            f"{source.path.name} has no column `label`, but {held}: the images are unlabelled",
            "set label to the column of the labels; or move the file away for a class per folder",
        )


def _find_numbered(folders: Sequence[Path], beside: Sequence[Path]) -> FolderImages | None:
    """The images of folders that only divide a large set; None if they may be classes.

    Such folders have numbers of `NUMBERED_DIGITS` for names, and no image is called like one in
    another of them. (GTSRB has classes 00000..00042, but begins each at the same names.)
    """
    if not all(path.name.isdecimal() and len(path.name) >= NUMBERED_DIGITS for path in folders):
        return None
    files = [file for folder in folders for file in _files(folder)]
    images = only_images(files)
    if not images or len({image.name for image in images}) < len(images):
        return None
    number = f"{len(folders):,} numbered folder{'s'[len(folders) == 1 :]}"
    names = listed((path.name for path in folders), len(folders))
    remark = Remark(
        f"{number} ({names}) are taken for pieces of one unlabelled set, not for classes",
        "if they are classes, give them names, or say the labels in a metadata.csv",
    )
    left_out = _left_out({*files, *beside} - {*images})
    return FolderImages(tuple(images), left_out=left_out, remarks=(remark,))


def _find_classes(root: Path, folders: Sequence[Path], beside: Sequence[Path]) -> FolderImages:
    inside = [visible(folder) for folder in folders]
    images = [only_images(paths) for paths in inside]
    empty = [folder for folder, found in zip(folders, images, strict=True) if not found]
    if empty:
        raise _empty_classes(root, folders, empty)
    every = [path for paths in inside for path in paths]
    others = [path for path in every if not path.is_dir()]
    left_out = _left_out({*others, *beside}.difference(*images))
    deeper = sum(len(list(_files(path))) for path in every if path.is_dir())
    left_out += Counter({"in deeper folders": deeper})
    order = sorted(
        (place, label) for label, found in enumerate(images) for place in range(len(found))
    )
    return FolderImages(
        files=tuple(images[label][place] for place, label in order),
        labels=tuple(float(label) for _, label in order),
        class_names=tuple(printable(folder.name) for folder in folders),
        left_out=left_out,
    )


def _joined(root: Path, parts: dict[Path, FolderImages], outside: Counter[str]) -> FolderImages:
    """The images of all parts; a class of the same name is the same class."""
    found = list(parts.values())
    kinds = {(one.labels is None, not one.class_names) for one in found}
    if len(kinds) > 1:
        source = ", ".join(f"{path.name}: {_classes(one)}" for path, one in parts.items())
        raise UserError(
            str(root),
            f"its parts are labelled in different ways ({source})",
            f"set split to one of them, such as split: {next(iter(parts)).name}",
        )
    names = tuple(sorted({name for one in found for name in one.class_names}))
    labels: list[float] = []
    for one in found:
        number = {float(n): float(names.index(name)) for n, name in enumerate(one.class_names)}
        labels += [number.get(each, each) for each in one.labels or ()]
    return FolderImages(
        files=tuple(chain.from_iterable(one.files for one in found)),
        labels=None if found[0].labels is None else tuple(labels),
        class_names=names,
        left_out=sum((Counter(one.left_out) for one in found), outside),
        label_files=tuple(dict.fromkeys(chain.from_iterable(one.label_files for one in found))),
        remarks=tuple(dict.fromkeys(chain.from_iterable(one.remarks for one in found))),
    )


def _classes(found: FolderImages) -> str:
    if found.labels is None:
        return "no labels"
    return f"{len(found.class_names)} classes" if found.class_names else "numbers"


def in_words(left_out: Mapping[str, int]) -> str:
    """`30 .tif, 8 links to nothing`."""
    counts = Counter(left_out).most_common()
    return listed((f"{number:,} {what}" for what, number in counts), len(counts))


def _no_images(root: Path, files: Sequence[Path]) -> UserError:
    held = f"only {in_words(_left_out(files))}" if files else "nothing"
    known = ", ".join(sorted(SUFFIXES))
    return UserError(
        str(root),
        f"holds no images, {held}",
        f"name a folder with images ({known}), or with a folder of them per class",
    )


def _empty_classes(root: Path, folders: Sequence[Path], empty: Sequence[Path]) -> UserError:
    names = [folder.name for folder in folders]
    if len(empty) == len(folders) and any(path.is_dir() for path in visible(folders[0])):
        return UserError(
            str(root),
            f"its folders hold folders, not images: {listed(names, len(names))}",
            f"set split to one of them, such as split: {names[0]}, or make {folders[0]} the source",
        )
    return UserError(
        str(root),
        f"{len(empty):,} of {len(folders):,} class folders hold no images: "
        f"{listed((folder.name for folder in empty), len(empty))}",
        "add images to them, or remove the folders",
    )
