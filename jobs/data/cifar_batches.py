"""Reads CIFAR-10's python batches (Krizhevsky 2009): five files to train with and one to test.

Each is a pickled dictionary of `data`, uint8 (N, 3072), an image's red, green and blue planes of
32 x 32 one after the other, and `labels`, N whole numbers.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jobs.base.errors import UserError
from jobs.data.collect import fit_array
from jobs.data.labels import check_classes, check_labels
from jobs.data.loaded import LoadedImages
from jobs.data.pixels import PixelRules
from jobs.data.restricted_pickle import ArrayRecord, read_pickle
from jobs.data.source import BATCH_NAMES, ImageSource

SIDE = 32
"""Height and width, px."""


class Batch(NamedTuple):
    """One file."""

    path: Path
    images: NDArray[np.uint8]
    """Shape (N, 32, 32, 3)."""
    labels: NDArray[Any]
    """Shape (N,), whole numbers, not checked."""


def read_batches(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads the first `max_images` images, in the order of the batches.

    Args:
        source: the files.
        rules: what every image is turned into.
        max_images: number of images to take; None = all.
        labels: whether to read the labels.

    Raises:
        UserError: a file is damaged, is no such batch, or would run code.
    """
    where = str(source.root)
    names = next((_read_names(path) for path in source.files if path.name == BATCH_NAMES), ())
    batches = [_read_batch(path) for path in source.files if path.name != BATCH_NAMES]
    every = np.concatenate([batch.images for batch in batches])
    images = fit_array(every[:max_images], rules, where)
    numbers = None
    if labels:
        checked = [check_labels(batch.labels, names, str(batch.path)) for batch in batches]
        numbers = np.concatenate(checked)[:max_images]
        check_classes(numbers, names, where, cut=len(images) < len(every))
    return LoadedImages(images, numbers, names if labels else (), True, source.words)


def _read_batch(path: Path) -> Batch:
    content = _read_dictionary(path)
    record, labels = content.get("data"), content.get("labels")
    if not isinstance(record, ArrayRecord) or not isinstance(labels, list):
        raise _no_batch(path, f"it has {', '.join(content) or 'nothing'}")
    if not all(type(label) is int for label in labels):
        raise _no_batch(path, "its labels are not all whole numbers")
    try:
        planes = record.array()
    except (TypeError, ValueError) as error:
        raise _no_batch(path, str(error)) from error
    if planes.shape != (len(labels), 3 * SIDE * SIDE):
        raise _no_batch(path, f"data has shape {planes.shape} for {len(labels)} labels")
    images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Batch(path, images, np.array(labels))


def _read_names(path: Path) -> tuple[str, ...]:
    names = _read_dictionary(path).get("label_names")
    if not isinstance(names, list):
        raise _no_batch(path, "it has no list `label_names`")
    return tuple(_text(name) for name in names)


def _read_dictionary(path: Path) -> dict[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise _no_batch(path, f"it is a {type(content).__name__}")
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    """A string of either Python; anything else is but named, since it may be of any size."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else type(value).__name__


def _no_batch(path: Path, what: str) -> UserError:
    return UserError(
        str(path), f"is no batch of CIFAR-10: {what}", "fetch CIFAR-10's python archive again"
    )
