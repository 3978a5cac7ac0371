"""Which images a folder holds: a subfolder per class, or a flat folder without labels.

Classes are the subfolders in the order of their names. Their images are interleaved (the first of
each class, the second of each, ...), so that the first n of a data set are never all of one class.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jobs.base.errors import UserError
from jobs.data.listing import listed

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
"""Endings, in lower case, of the files that are taken for images."""


class FolderImages(NamedTuple):
    """The image files of a folder, in the order in which they are read."""

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    """Index of each file's class; None = no subfolders, unlabelled."""
    class_names: tuple[str, ...]
    ignored: int
    """Number of files that are no images by their ending."""


def find_images(root: Path) -> FolderImages:
    """Lists the images of a folder that has a subfolder per class, or none.

    Raises:
        UserError: no images, images beside subfolders, or a class without images.
    """
    entries = visible(root)
    folders = [path for path in entries if path.is_dir()]
    files = [path for path in entries if not path.is_dir()]
    images = only_images(files)
    if not folders:
        if not images:
            raise _no_images(root, files)
        return FolderImages(tuple(images), None, (), len(files) - len(images))
    if images:
        raise UserError(
            str(root),
            f"holds {len(images):,} images beside {len(folders):,} folders",
            "put every image into the folder of its class, or all into one folder without others",
        )
    return _find_classes(root, folders, len(files))


def _find_classes(root: Path, folders: Sequence[Path], ignored: int) -> FolderImages:
    inside = [visible(folder) for folder in folders]
    images = [only_images(paths) for paths in inside]
    empty = [folder for folder, found in zip(folders, images, strict=True) if not found]
    if empty:
        raise _empty_classes(root, folders, empty)
    ignored += sum(map(len, inside)) - sum(map(len, images))
    order = sorted(
        (place, label) for label, found in enumerate(images) for place in range(len(found))
    )
    return FolderImages(
        files=tuple(images[label][place] for place, label in order),
        labels=tuple(label for _, label in order),
        class_names=tuple(folder.name for folder in folders),
        ignored=ignored,
    )


def visible(folder: Path) -> list[Path]:
    """What a folder holds in the order of the names, without what the system hides there."""
    hidden = ("__MACOSX", "Thumbs.db", "desktop.ini")
    return sorted(
        path for path in folder.iterdir() if path.name[0] != "." and path.name not in hidden
    )


def only_images(paths: Sequence[Path]) -> list[Path]:
    """Those that are files and images by their ending."""
    return [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]


def _no_images(root: Path, files: Sequence[Path]) -> UserError:
    endings = Counter(path.suffix or path.name for path in files)
    names = (f"{number:,} {ending}" for ending, number in endings.most_common())
    held = f"only {listed(names, len(endings))}" if files else "nothing"
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
