"""Reads the python batches of CIFAR-10 and CIFAR-100 (Krizhevsky 2009).

CIFAR-10 has five files to train with and one to test, CIFAR-100 one of each. Each is a pickled
dictionary of `data`, uint8 (N, 3072), an image's red, green and blue planes of 32 x 32 one after
the other, and N whole numbers: `labels`, or CIFAR-100's `fine_labels` and `coarse_labels`, of which
the user names the one that is meant. The names of the classes lie beside them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import fit_array
from slimctl.jobs.data.label_files import no_column
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels
from slimctl.jobs.data.pixels import PixelRules
from slimctl.jobs.data.restricted_pickle import ArrayRecord, read_pickle
from slimctl.jobs.data.source import BATCH_NAMES, CIFAR_100_NAMES, ImageSource

SIDE = 32
"""Height and width, px."""


CIFAR_100_LABELS = ("fine_label", "coarse_label")
"""Labels that CIFAR-100 has; its files say them in the plural."""


class Batch(NamedTuple):
    """One file."""

    path: Path
    images: NDArray[np.uint8]
    """Shape (N, 32, 32, 3)."""
    labels: NDArray[Any] | None
    """Shape (N,), whole numbers, not checked; None = not asked for."""


def read_batches(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads the first `max_images` images, in the order of the batches.

    Raises:
        UserError: a file is damaged, is no such batch, or would run code.
    """
    where = str(source.root)
    key = _label_key(source) if labels else None
    files = [path for path in source.files if path.name not in (BATCH_NAMES, CIFAR_100_NAMES)]
    beside = [path for path in source.files if path not in files]
    batches = [_read_batch(path, key) for path in files]
    every = np.concatenate([batch.images for batch in batches])
    images = fit_array(every[:max_images], rules, where)
    if key is None:
        other = label_columns(source) if labels else ()
        return LoadedImages(images, None, (), True, source.words, other)
    names = _read_names(beside[0], key) if beside else ()
    checked = [
        check_labels(batch.labels, names, str(batch.path))
        for batch in batches
        if batch.labels is not None
    ]
    numbers = np.concatenate(checked)[:max_images]
    check_classes(numbers, names, where, cut=len(images) < len(every))
    return LoadedImages(images, numbers, names, True, source.words)


def label_columns(source: ImageSource) -> tuple[str, ...]:
    """Labels that could be meant where the user names none: CIFAR-100 has two."""
    return CIFAR_100_LABELS if _is_cifar_100(source) and source.label is None else ()


def _is_cifar_100(source: ImageSource) -> bool:
    return source.root / CIFAR_100_NAMES in source.files


def _label_key(source: ImageSource) -> str | None:
    """Key of the labels in a batch; None = there is more than one, and the user names none."""
    if source.label is None:
        return None if _is_cifar_100(source) else "labels"
    known = CIFAR_100_LABELS if _is_cifar_100(source) else ("label",)
    singular = source.label.removesuffix("s")
    if singular not in known:
        raise no_column(str(source.root), source.label, known)
    return f"{singular}s"


def _read_batch(path: Path, key: str | None) -> Batch:
    content = _read_dictionary(path)
    record = content.get("data")
    if not isinstance(record, ArrayRecord) or (key and not isinstance(content.get(key), list)):
        raise _no_batch(path, f"it has {', '.join(content) or 'nothing'}")
    try:
        planes = record.array()
    except (TypeError, ValueError) as error:
        raise _no_batch(path, str(error)) from error
    if planes.dtype != np.uint8:
        raise _no_batch(path, f"data is {planes.dtype}, not bytes")
    if planes.ndim != 2 or planes.shape[1] != 3 * SIDE * SIDE:
        raise _no_batch(path, f"data has shape {planes.shape}")
    images = planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    if key is None:
        return Batch(path, images, None)
    labels = content[key]
    if not all(type(label) is int for label in labels):
        raise _no_batch(path, "its labels are not all whole numbers")
    if len(labels) != len(planes):
        raise _no_batch(path, f"data has shape {planes.shape} for {len(labels)} labels")
    return Batch(path, images, np.array(labels))


def _read_names(path: Path, key: str) -> tuple[str, ...]:
    name = f"{key.removesuffix('s')}_names"
    names = _read_dictionary(path).get(name)
    if not isinstance(names, list):
        raise _no_batch(path, f"it has no list `{name}`")
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
    return UserError(str(path), f"is no batch of CIFAR: {what}", "fetch the python archive again")
