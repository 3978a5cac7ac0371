"""Images in archives, WebDataset's shards and EDM's .zip, in the order of the files."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError, listed
from slimctl.jobs.data.collect import Item, gather
from slimctl.jobs.data.index import Index, members
from slimctl.jobs.data.label_files import in_numbers
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels
from slimctl.jobs.data.pixels import PixelRules
from slimctl.jobs.data.random_access import Place, RandomAccess
from slimctl.jobs.data.source import ImageSource
from slimctl.jobs.data.tar_shards import index_tar, read_tar
from slimctl.jobs.data.zip_archive import index_zip, read_zip

INDEXERS: dict[str, Callable[..., Index]] = {"tar": index_tar, "zip": index_zip}
READERS: dict[str, Callable[..., bytes]] = {"tar": read_tar, "zip": read_zip}
Labels = tuple[NDArray[np.int64], tuple[str, ...]]
"""Number of each image's class, and the names of the classes."""


def read_archives(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads the first `max_images` images into memory.

    Raises:
        UserError: an archive is damaged, or images or labels are bad.
    """
    where, indexes = str(source.root), list[Index]()
    for place in source.places:
        indexes.append(index_archive(source, place, labels=labels))
        if max_images is not None and sum(map(len, indexes)) >= max_images:
            break
    total = sum(map(len, indexes))
    count = min(total, max_images or total)
    found = number_labels(source, indexes, count, cut=count < total) if labels else None
    items = chain.from_iterable(
        archive_items(source.reader, place, index, range(len(index)))
        for place, index in zip(source.places, indexes, strict=False)
    )
    gathered = gather(_first(items, count), count, rules, where)
    numbers, names = found or (None, ())
    return LoadedImages(gathered.images, numbers, names, None, source.words).only(gathered)


def index_archive(source: ImageSource, place: Place, *, labels: bool) -> Index:
    """Where the images of an archive are, with their labels if these are wanted.

    Raises:
        UserError: it is damaged, or holds what an archive of images does not.
    """
    return INDEXERS[source.reader](place, source.label, labels=labels)


def archive_items(reader: str, place: Place, index: Index, rows: range) -> Iterator[Item]:
    """Some images of an archive, to be read as they are decoded."""
    return members(RandomAccess(place), place.name, index, rows, READERS[reader])


def number_labels(
    source: ImageSource, indexes: Sequence[Index], count: int, *, cut: bool
) -> Labels | None:
    """The labels of the first images as numbers; None = there are none.

    Args:
        source: that they are of.
        indexes: of its first files.
        count: images that are taken.
        cut: whether others are left out.

    Raises:
        UserError: some images have no label, or a class has no image.
    """
    where = str(source.root)
    if all(index.labels is None for index in indexes):
        if source.label is not None:
            what = f"has no labels called `{source.label}`"
            raise UserError(where, what, "set label to what its samples have, or to null")
        return None
    values = [value for index in indexes for value in (index.labels or [None] * len(index))][:count]
    _check_all_labelled(source, indexes, values)
    numbers, names = in_numbers(values)
    checked = check_labels(np.array(numbers), names, where)
    check_classes(checked, names, where, cut=cut)
    return checked, names


def _check_all_labelled(
    source: ImageSource, indexes: Sequence[Index], values: Sequence[Any]
) -> None:
    without = [row for row, value in enumerate(values) if value in (None, "")]
    if not without:
        return
    names = (
        f"{place.name}: {name}"
        for place, index in zip(source.places, indexes, strict=False)
        for name in index.names
    )
    wanted = set(without[:10])
    shown = [name for row, name in enumerate(names) if row in wanted]
    raise UserError(
        str(source.root),
        f"{len(without):,} of {len(values):,} images have no label: {listed(shown, len(without))}",
        "add them, remove the images, or set labels: false",
    )


def _first(items: Iterator[Item], count: int) -> Iterator[Item]:
    for _, item in zip(range(count), items, strict=False):
        yield item
