"""Reads images that are arrays already: .npz and .npy files, and scikit-learn's digits.

Floats must be in [-1, 1]. Images that fill only [0, 1] are refused: they are nearly always scaled
to that range, and taken for [-1, 1] they would silently come out pale.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import fit_array
from slimctl.jobs.data.label_files import no_column
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels
from slimctl.jobs.data.pixels import PixelRules
from slimctl.jobs.data.source import ImageSource

SLICE = 1024
"""Images converted at a time, to keep what is needed beside the arrays small."""
PACKED_BYTES = 64 * 2**20
PACKED_RATIO = 200
"""An array of an .npz may be larger than this only if it is not packed more than so many times: of
images even flat ones shrink less, and zeros a thousand times."""


def read_digits(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads scikit-learn's 1797 grey digits of 8 x 8 pixels, 0..16 stretched to 0..255."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  (slow to import, seldom needed)

    digits = load_digits()
    pixels = np.rint(digits.images[:max_images] * (255 / 16)).astype(np.uint8)
    return LoadedImages(
        images=fit_array(pixels[..., np.newaxis], rules, source.words),
        labels=digits.target[:max_images].astype(np.int64) if labels else None,
        class_names=tuple("0123456789") if labels else (),
        flip_valid=False,
        source=source.words,
    )


def read_array(
    source: ImageSource, rules: PixelRules, max_images: int | None, *, labels: bool
) -> LoadedImages:
    """Reads `images` and, if there, `labels` of an .npz file, or the images that an .npy file is.

    Args:
        source: the file. Images have shape (N, H, W, 1), (N, H, W, 3) or (N, H, W); uint8, or
            floats in [-1, 1].
        rules: what every image is turned into.
        max_images: number of images to take; None = all.
        labels: whether to read labels, where there are any.

    Raises:
        UserError: the file is damaged, or an array is not as described; names the first culprit.
    """
    path = source.root
    where = str(path)
    arrays = _load(path, source.label or "labels")
    if source.label is not None and "labels" not in arrays:
        raise no_column(where, source.label, [name for name in _names(path) if name != "images"])
    every = arrays["images"]
    images = _to_bytes(_check_shape(every, where)[:max_images], where)
    found = None
    if labels and "labels" in arrays:
        if arrays["labels"].shape != every.shape[:1]:
            what = f"labels have shape {arrays['labels'].shape}, images {every.shape}"
            raise UserError(where, what, "store one label per image")
        found = check_labels(arrays["labels"][:max_images], (), where)
        check_classes(found, (), where, cut=len(found) < len(every))
    return LoadedImages(fit_array(images, rules, where), found, (), None, source.words)


def _load(path: Path, label: str) -> dict[str, NDArray[Any]]:
    """The arrays `images` and `labels` of a file; nothing that would need unpickling is loaded."""
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            names = content.files
            _check_packed(content.zip.infolist())
            keys = {"images": "images", "labels": label}
            arrays = {key: content[name] for key, name in keys.items() if name in names}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            str(path), f"is no readable array file: {error}", "write it again with numpy.savez"
        ) from error
    if "images" not in arrays:
        raise UserError(
            str(path),
            f"has no array `images`; it has {', '.join(names) or 'nothing'}",
            "write it as numpy.savez(path, images=..., labels=...)",
        )
    return arrays


def _check_packed(members: list[zipfile.ZipInfo]) -> None:
    """Raises ValueError for arrays that unpack to far more than images do: they fill the memory."""
    for member in members:
        size, packed = member.file_size, member.compress_size
        if size > PACKED_BYTES and size > PACKED_RATIO * packed:
            raise ValueError(f"{member.filename} has {packed:,} bytes for {size:,}: it is a bomb")


def _names(path: Path) -> list[str]:
    """Names of the arrays in a file that can be read; a single array has none."""
    content = np.load(path, allow_pickle=False, mmap_mode="r")
    return [] if isinstance(content, np.ndarray) else list(content.files)


def _check_shape(images: NDArray[Any], where: str) -> NDArray[Any]:
    """Images as (N, H, W, C)."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.size:
        return images
    planes_first = images.ndim == 4 and images.shape[1] in (1, 3)
    raise UserError(
        where,
        f"images have shape {images.shape}, not (N, H, W, 1) or (N, H, W, 3)",
        "store images.transpose(0, 2, 3, 1)" if planes_first else "store them in that shape",
    )


def _to_bytes(images: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        fix = "store uint8, or floats in [-1, 1]"
        raise UserError(where, f"images are {images.dtype}", fix)
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), SLICE):
        part = images[start : start + SLICE].astype(np.float32)
        _check_range(part, start, where)
        pixels[start : start + SLICE] = np.rint((part + 1) * 127.5)
    if images.min() >= 0:
        raise UserError(
            where,
            f"images are {images.dtype} in [0, 1], not in [-1, 1]",
            "store 2 * images - 1, or uint8",
        )
    return pixels


def _check_range(images: NDArray[np.float32], start: int, where: str) -> None:
    bad = ~(np.abs(images) <= 1).all(axis=(1, 2, 3))
    if bad.any():
        place = int(bad.argmax())
        values = images[place]
        value = values[~(np.abs(values) <= 1)][0]
        raise UserError(
            where,
            f"image {start + place} has the value {value}, which is not in [-1, 1]",
            "store finite floats in [-1, 1], or uint8",
        )
