"""What a reader returns: images, labels and what is known about them.

Labels from outside are checked: whole numbers 0..classes-1, each class with an image. A gap (labels
0, 2, 5) is refused rather than closed: renumbering would give every class another number than the
user's own files have. Class names make the number of classes known; without them it is the highest
label plus one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import NAMED, UserError, listed
from slimctl.jobs.data.collect import Gathered, in_words


class LoadedImages(NamedTuple):
    """A whole source in memory."""

    images: NDArray[np.uint8]
    """Shape (N, S, S, C), contiguous, 0..255; C is 1 (grey) or 3 (red, green, blue)."""
    labels: NDArray[np.int64] | None
    """Shape (N,), 0..class_count-1; None = unlabelled."""
    class_names: tuple[str, ...]
    """Name of each class; () = the source has none."""
    flip_valid: bool | None
    """Whether a mirrored image is as good as the original; None = not known for this source."""
    source: str
    """The source in words."""
    label_columns: tuple[str, ...] = ()
    """Columns that could be the labels of images that are read without."""
    skipped: str = ""
    """Which images could not be used and were left out, in words."""

    def only(self, gathered: Gathered) -> "LoadedImages":
        """With the labels of the images that could be used; every class still has one.

        Raises:
            UserError: a class has lost all its images.
        """
        if not gathered.refused:
            return self
        labels = None if self.labels is None else self.labels[gathered.kept]
        if labels is not None:
            check_classes(labels, self.class_names, self.source, cut=False)
        words = in_words(gathered.refused, len(gathered.kept))
        return self._replace(labels=labels, skipped=words)

    @property
    def class_count(self) -> int:
        """Number of classes; 0 = unlabelled."""
        return len(self.label_counts)

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Images of each class; () = unlabelled."""
        return count_labels(self.labels, self.class_names)


def count_labels(labels: NDArray[np.int64] | None, names: Sequence[str]) -> tuple[int, ...]:
    """Images of each class, as many as there are names if there are any; () = unlabelled."""
    if labels is None:
        return ()
    classes = max(len(names), int(labels.max()) + 1)
    return tuple(np.bincount(labels, minlength=classes).tolist())


def check_labels(values: NDArray[Any], names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Labels as int64, each a whole number from 0, below the number of classes if that is known.

    Args:
        values: shape (N,); numbers, where NaN stands for a missing label.
        names: names of the classes; empty = their number is not known.
        where: the file, as an error names it.

    Raises:
        UserError: a label is none of that; names the first rows.
    """
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise UserError(
            where,
            f"labels are {values.dtype} of shape {values.shape}, not one whole number per image",
            "number the classes 0, 1, 2, ...",
        )
    limit = len(names) or np.iinfo(np.int64).max
    with np.errstate(invalid="ignore"):
        good = (values >= 0) & (values < limit) & (values == np.floor(values))
    if not good.all():
        raise _bad_rows(values, good, names, where)
    return values.astype(np.int64)


def check_classes(
    labels: NDArray[np.int64], names: Sequence[str], where: str, *, cut: bool
) -> None:
    """Checks that every class has an image.

    Args:
        labels: shape (N,), each at least 0.
        names: names of the classes; empty = there are as many as the highest label says.
        where: the source, as an error names it.
        cut: whether `max_images` left images out.

    Raises:
        UserError: classes without an image; names the first.
    """
    present = set(np.unique(labels).tolist())
    classes = max(len(names), max(present) + 1)
    missing = classes - len(present)
    if not missing:
        return
    total = f"{missing:,} of {classes:,} classes"
    part = f"the first {len(labels):,} images" if cut else "it"
    absent = _absent(present, classes, names)
    raise UserError(
        where,
        f"{total} have no image in {part}: {listed(absent, missing)}",
        "raise max_images, or set labels: false"
        if cut
        else "number the classes 0, 1, 2, ... without a gap, or set labels: false",
    )


def _absent(present: set[int], classes: int, names: Sequence[str]) -> Iterator[str]:
    for label in range(classes):
        if label not in present:
            yield f"{label} ({names[label]})" if label < len(names) else str(label)


def _bad_rows(
    values: NDArray[Any], good: NDArray[np.bool_], names: Sequence[str], where: str
) -> UserError:
    rows = np.flatnonzero(~good)
    shown = (f"row {row}: {_in_words(values[row])}" for row in rows[:NAMED])
    allowed = f"0..{len(names) - 1}" if names else "0, 1, 2, ..."
    return UserError(
        where,
        f"{len(rows):,} of {len(values):,} labels are not among {allowed}: "
        f"{listed(shown, len(rows))}",
        "correct or remove those rows, or set labels: false to read the images without labels",
    )


def _in_words(label: Any) -> str:
    return "missing" if np.isnan(label) else f"{label}"
