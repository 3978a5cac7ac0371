"""The way in: any source of images to one array.

A source is read by the one reader that recognises it; `slimctl.jobs.data.source` decides which.
"""

from math import isnan

import numpy as np

from slimctl.jobs.base.errors import UserError, listed
from slimctl.jobs.data.archives import Labels, read_archives
from slimctl.jobs.data.arrays import read_array, read_digits
from slimctl.jobs.data.cifar_batches import label_columns as columns_of_batches
from slimctl.jobs.data.cifar_batches import read_batches
from slimctl.jobs.data.collect import Item, gather
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels
from slimctl.jobs.data.parquet import label_columns as columns_of_parquet
from slimctl.jobs.data.parquet import read_parquet
from slimctl.jobs.data.pixels import Broken, Channels, Crop, Filter, PixelRules
from slimctl.jobs.data.source import ImageSource, find_source


def read_images(
    source: str,
    *,
    split: str | None = None,
    size: int | None = None,
    crop: Crop = "center",
    channels: Channels | None = None,
    resize: Filter = "lanczos",
    broken: Broken = "fail",
    max_images: int | None = None,
    labels: bool = True,
    label: str | None = None,
) -> LoadedImages:
    """Reads a whole source into memory.

    Args:
        source: as `find_source` takes it.
        split: part of the source, such as `train`; None = all of it.
        size: height and width to resize to, px; None = as they are, all of one size.
        crop: how images that are not square become so: cut at the centre, or refused.
        channels: 1 grey by luminance, 3 colour; None = 1 if every image is grey, else 3.
        resize: filter that averages over old pixels.
        broken: whether images that cannot be used end the reading, or are left out.
        max_images: number of images to take, from the first; None = all.
        labels: whether to read labels, where there are any.
        label: column of the labels, where there are columns; None = `label` or `labels`.

    Raises:
        UserError: there is no such source, or it cannot be used as asked.
    """
    found = find_source(source, split, label)
    rules = PixelRules(size, crop, channels, resize, broken)
    readers = {
        "digits": read_digits,
        "parquet": read_parquet,
        "images": _read_folder,
        "batches": read_batches,
        "array": read_array,
        "arrow": read_parquet,
        "tar": read_archives,
        "zip": read_archives,
    }
    return readers[found.reader](found, rules, max_images, labels=labels)


def label_columns(source: ImageSource) -> tuple[str, ...]:
    """Columns that could be the labels of a source that is read without.

    Raises:
        UserError: its first file is damaged, or has no images.
    """
    if source.reader in ("parquet", "arrow"):
        return columns_of_parquet(source)
    return columns_of_batches(source) if source.reader == "batches" else ()


def _check_labelled(source: ImageSource, count: int) -> None:
    """Checks that a file of labels tells the labels of the first `count` images.

    Raises:
        UserError: it does not; names the first images.
    """
    labelled = zip(source.files[:count], source.labels or (), strict=False)
    without = [str(path.relative_to(source.root)) for path, label in labelled if isnan(label)]
    if without:
        raise UserError(
            ", ".join(str(path) for path in source.label_files),
            f"{len(without):,} of {count:,} images have no label: {listed(without, len(without))}",
            "add them, remove the images, or set labels: false",
        )


def folder_labels(source: ImageSource, count: int) -> Labels | None:
    """The labels of the first `count` images of a folder; None = it has none.

    Raises:
        UserError: some have no label, or a class has no image.
    """
    if source.labels is None:
        return None
    where = str(source.root)
    _check_labelled(source, count)
    numbers = check_labels(np.array(source.labels[:count]), source.class_names, where)
    check_classes(numbers, source.class_names, where, cut=count < len(source.files))
    return numbers, source.class_names


def _read_folder(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    files = source.files[:max_images]
    where = str(source.root)
    found = folder_labels(source, len(files)) if labels else None
    items = (Item(str(path.relative_to(source.root)), path) for path in files)
    gathered = gather(items, len(files), rules, where)
    numbers, names = found or (None, source.class_names if labels else ())
    loaded = LoadedImages(gathered.images, numbers, names, None, source.words)
    return loaded.only(gathered)
