"""Noise-image pairs made elsewhere, as the published SlimFlow code writes them.

A folder holds `z0.npy`, the noise, and `z1.npy`, the images in [-1, 1], both float (N, C, H, W),
and `label.npy` for a conditional teacher: the class of each pair, or its one-hot row. A folder of
such folders (the code makes one per seed) is all of them, in the order of their names. The arrays
are mapped, not read: they are larger than memory. In the store their shards hold noise and labels
too.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from slimctl.jobs.base.artifacts import ShardFile
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.models.spec import ImageShape

NOISE, IMAGES, LABELS = "z0.npy", "z1.npy", "label.npy"
CHUNK = 1024
"""Pairs looked at in one go."""
NOISE_STD = (0.9, 1.1)
"""Standard deviation within which noise is taken to have unit variance."""
ENOUGH = 1000
"""Numbers from which on a standard deviation tells something."""
LARGEST_NUMBER = float(np.finfo(np.float32).max)
LARGEST_PIXEL = 10.0
"""Images are not clipped, so some pixels lie outside of [-1, 1], but not far."""


@dataclass(frozen=True)
class PairArrays:
    """The pairs of one folder, mapped and checked.

    Args:
        folder: where they are.
        noise: (N, C, H, W) floats.
        images: the same shape.
        labels: int64 (N,); None = unlabelled.
        classes: width of the one-hot rows, or the largest class + 1; 0 = unlabelled.
    """

    folder: Path
    noise: NDArray[np.floating]
    images: NDArray[np.floating]
    labels: NDArray[np.int64] | None
    classes: int

    def __len__(self) -> int:
        return len(self.noise)


def find_pairs(path: Path) -> tuple[Path, ...]:
    """The folders of pairs at a path.

    Raises:
        UserError: there are none, or one of them is not whole.
    """
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "there is no such folder"
        raise UserError(str(path), what, f"name the folder with {NOISE} and {IMAGES}")
    inside = sorted(entry for entry in path.iterdir() if entry.is_dir())
    folders = [one for one in (path, *inside) if any((one / n).exists() for n in (NOISE, IMAGES))]
    for folder in folders:
        missing = [name for name in (NOISE, IMAGES) if not (folder / name).is_file()]
        if missing:
            raise UserError(str(folder), f"has no {missing[0]}", "name a folder with both arrays")
    if not folders:
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        fix = f"name the folder with {NOISE} and {IMAGES}, or one of such folders"
        raise UserError(str(path), f"holds no {NOISE}; it holds {held}", fix)
    return tuple(folders)


def pair_files(path: Path) -> tuple[Path, ...]:
    """Every file that is read."""
    files = (folder / name for folder in find_pairs(path) for name in (NOISE, IMAGES, LABELS))
    return tuple(file for file in files if file.is_file())


def open_pairs(path: Path, *, labels: bool) -> tuple[PairArrays, ...]:
    """All pairs at a path, looked through once.

    Raises:
        UserError: an array is damaged or not as described; names the first culprit.
    """
    opened = [_open(folder, labels=labels) for folder in find_pairs(path)]
    first = opened[0]
    for other in opened[1:]:
        same = other.noise.shape[1:] == first.noise.shape[1:]
        if not same or (other.labels is None) != (first.labels is None):
            raise UserError(
                str(other.folder),
                f"its pairs are {_words(other)}, those of {first.folder.name} {_words(first)}",
                "import sets of one shape, all labelled or none",
            )
    for arrays in opened:
        for start in range(0, len(arrays), CHUNK):
            _check_values(arrays, start)
        _check_spread(arrays)
    return tuple(opened)


def image_of(opened: Sequence[PairArrays]) -> ImageShape:
    """Shape of the images, with as many classes as the folders have at most."""
    channels, size = opened[0].images.shape[1:3]
    return ImageShape(channels=channels, size=size, classes=max(one.classes for one in opened))


def rows(
    opened: Sequence[PairArrays], first: int, last: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64] | None]:
    """Noise, images and labels of the pairs first..last-1 of all folders together."""
    parts, offset = [], 0
    for arrays in opened:
        piece = slice(max(0, first - offset), max(0, last - offset))
        parts.append((arrays, piece))
        offset += len(arrays)
    noise = np.concatenate([one.noise[piece].astype(np.float32) for one, piece in parts])
    images = np.concatenate([one.images[piece].astype(np.float32) for one, piece in parts])
    labels = [one.labels[piece] for one, piece in parts if one.labels is not None]
    return noise, images, np.concatenate(labels) if labels else None


def _open(folder: Path, *, labels: bool) -> PairArrays:
    noise, images = (_load(folder / name) for name in (NOISE, IMAGES))
    for name, array in ((NOISE, noise), (IMAGES, images)):
        square = array.ndim == 4 and array.shape[2] == array.shape[3] and array.size > 0
        if not square or array.dtype.kind != "f":
            raise UserError(
                str(folder / name),
                f"is {array.dtype} of shape {array.shape}, not floats (N, C, H, W) with H = W",
                "store it in that shape and type",
            )
    if noise.shape != images.shape:
        raise UserError(
            str(folder),
            f"{NOISE} has shape {noise.shape}, {IMAGES} {images.shape}",
            "give as many noises as images, of one shape",
        )
    found, classes = None, 0
    if labels and (folder / LABELS).is_file():
        found, classes = _labels(_load(folder / LABELS), len(noise), folder / LABELS)
    return PairArrays(folder, noise, images, found, classes)


def _load(file: Path) -> NDArray[Any]:
    """An array, mapped; nothing that would need unpickling is loaded."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            str(file), f"is no readable array: {error}", "write it again with numpy.save"
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserError(str(file), "holds several arrays, not one", "write it with numpy.save")
    return array


def _labels(array: NDArray[Any], count: int, file: Path) -> tuple[NDArray[np.int64], int]:
    """Classes, and how many there can be; one-hot rows become the place of their 1."""
    if array.ndim not in (1, 2) or len(array) != count or array.dtype.kind not in "iuf":
        raise UserError(
            str(file),
            f"is {array.dtype} of shape {array.shape}, but there are {count} pairs",
            "store one class or one one-hot row per pair",
        )
    values = np.asarray(array)
    if values.ndim == 2 and values.shape[1] > 1:
        is_one_hot = ((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1)
        if not is_one_hot.all():
            row = int((~is_one_hot).argmax())
            raise UserError(str(file), f"row {row} is not one-hot", "store one 1 in each row")
        return values.argmax(1).astype(np.int64), values.shape[1]
    values = values.reshape(count)
    whole = np.isfinite(values) & (values >= 0) & (values == np.floor(values))
    if not whole.all():
        row = int((~whole).argmax())
        what = f"pair {row} has the class {values[row]}, which is no whole number from 0"
        raise UserError(str(file), what, "store classes 0, 1, 2, ...")
    return values.astype(np.int64), int(values.max()) + 1


def _check_values(arrays: PairArrays, start: int) -> None:
    for name, array in ((NOISE, arrays.noise), (IMAGES, arrays.images)):
        part = array[start : start + CHUNK]
        largest = LARGEST_NUMBER if name == NOISE else LARGEST_PIXEL
        bad = ~(np.abs(part) <= largest).all(axis=(1, 2, 3))  # NaN is bad too
        if bad.any():
            row = int(bad.argmax())
            values = part[row]
            value = values[~(np.abs(values) <= largest)][0]
            raise UserError(
                str(arrays.folder / name),
                f"pair {start + row} has the value {value}",
                "store finite numbers, images in [-1, 1]",
            )


def _check_spread(arrays: PairArrays) -> None:
    """Whether the two arrays can be what their names say, by their first pairs."""
    noise, images = arrays.noise[:CHUNK].astype(np.float64), arrays.images[:CHUNK]
    std, low = float(noise.std()), float(images.min())
    if noise.size >= ENOUGH and not NOISE_STD[0] <= std <= NOISE_STD[1]:
        looks_like_noise = NOISE_STD[0] <= float(images.std()) <= NOISE_STD[1]
        raise UserError(
            str(arrays.folder / NOISE),
            f"has the standard deviation {std:.3g}, but noise has 1",
            f"{NOISE} is the noise and {IMAGES} the images: exchange them"
            if looks_like_noise
            else "store the noise of unit variance that the images were made from",
        )
    if images.size >= ENOUGH and low >= 0.0:
        raise UserError(
            str(arrays.folder / IMAGES),
            f"has values from {low:.3g} to {float(images.max()):.3g}, not in [-1, 1]",
            "store 2 * images - 1",
        )


def _words(arrays: PairArrays) -> str:
    labelled = "unlabelled" if arrays.labels is None else f"of {arrays.classes} classes"
    return f"{arrays.noise.shape[1:]} {labelled}"


def store_pairs(
    context: JobContext, series: str, opened: Sequence[PairArrays], shard_size: int
) -> tuple[ShardFile, ...]:
    """Writes all pairs, `shard_size` a shard: x0 float32, x1 float16, label int64.

    Args:
        context: of the job; its progress counts pairs.
        series: folder of the shards below `pairs/`.
        opened: the pairs.
        shard_size: pairs per shard; the last one may hold fewer.
    """
    total, files = sum(len(one) for one in opened), []
    for first in range(0, total, shard_size):
        last = min(total, first + shard_size)
        noise, images, labels = rows(opened, first, last)
        tensors: dict[str, NDArray[Any]] = {"x0": noise, "x1": images.astype(np.float16)}
        data = save(tensors if labels is None else tensors | {"label": labels})
        path = f"pairs/{series}/shard-{first // shard_size:06d}.safetensors"
        context.store.blobs.write(path, data)
        digest = hashlib.sha256(data).hexdigest()
        files.append(ShardFile(path=path, size=len(data), sha256=digest))
        context.progress(last, total)
    return tuple(files)
