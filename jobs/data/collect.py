"""Many encoded images into one array, decoded by a few threads.

Damaged images do not stop the reading: all are found first, then the source is refused once with
their names. Only one batch of encoded images is in memory beside the array.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from slimctl.jobs.base.errors import UserError, listed
from slimctl.jobs.data.pixels import (
    DAMAGE,
    Encoded,
    NotSquareError,
    PixelRules,
    Pixels,
    TooLargeError,
    complaint,
    decode,
    is_grey,
    pixel_limit,
)

BATCH = 256
"""Images in flight: enough to keep the threads busy, little enough to fit when they are large."""
CHUNK = 16
"""Images that a thread takes at once: small ones decode faster than a thread is handed one."""


class Item(NamedTuple):
    """An encoded image and what to call it in an error."""

    name: str
    data: Encoded


class Refusal(NamedTuple):
    """An image that cannot be used."""

    name: str
    reason: str
    fix: str
    """What to do with images like it."""


def collect(items: Iterable[Item], count: int, rules: PixelRules, where: str) -> NDArray[np.uint8]:
    """Decodes all images by the same rules into an array (N, S, S, C).

    Args:
        items: exactly `count` images, in order; read lazily.
        count: N, at least 1.
        rules: what every image is turned into.
        where: the source, as an error names it.

    Raises:
        UserError: images are damaged, are not square where none may be cut, or differ in size
            where no size is set.
    """
    images: NDArray[np.uint8] | None = None
    refused: list[Refusal] = []
    sizes: Counter[tuple[int, int]] = Counter()
    all_grey = True
    with warnings.catch_warnings():
        # Pillow warns of metadata and of large images, which are used or refused by name here.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for index, result in enumerate(_decoded(items, rules)):
            if isinstance(result, Refusal):
                refused.append(result)
                continue
            side = len(result.values)
            sizes[result.found] += 1
            all_grey = all_grey and result.is_grey
            if images is None:
                images = np.empty((count, side, side, rules.channels or 3), np.uint8)
            if side == images.shape[1]:
                images[index] = np.atleast_3d(result.values)
    _check_refused(refused, count, where)
    _check_sizes(sizes, rules, where)
    assert images is not None
    return _narrow(images) if rules.channels is None and all_grey else images


def fit_array(images: NDArray[np.uint8], rules: PixelRules, where: str) -> NDArray[np.uint8]:
    """The same for images that are an array already, (N, H, W, C) with C = 1 or 3.

    Raises:
        UserError: the images are not square and none may be cut.
    """
    height, width, channels = images.shape[1:]
    grey = channels == 1 or (rules.channels != 3 and is_grey(images))
    resized = height != width or rules.size not in (None, height)
    if resized or (rules.channels == 1 and not grey):
        pixels = images[..., 0] if grey else images
        items = (Item(f"image {i}", image) for i, image in enumerate(pixels))
        return collect(items, len(images), rules, where)
    if grey and rules.channels != 3:
        return _narrow(images)
    return np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3)))


def _narrow(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images[..., :1])


def _decoded(items: Iterable[Item], rules: PixelRules) -> Iterator[Pixels | Refusal]:
    Image.init()  # Loads the decoders now: Pillow does it at first use, which is not thread-safe.
    source = iter(items)
    work = partial(_decode_chunk, rules=rules)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "decode") as pool:
        while batch := list(islice(source, BATCH)):
            chunks = [batch[i : i + CHUNK] for i in range(0, len(batch), CHUNK)]
            for results in pool.map(work, chunks):
                yield from results


def _decode_chunk(chunk: list[Item], rules: PixelRules) -> list[Pixels | Refusal]:
    return [_decode_one(item, rules) for item in chunk]


def _decode_one(item: Item, rules: PixelRules) -> Pixels | Refusal:
    try:
        return decode(item.data, rules)
    except NotSquareError as error:
        return Refusal(
            item.name, f"{error}, not square", "set crop: center for those that are not square"
        )
    except TooLargeError as error:
        fix = f"shrink those of more than {pixel_limit():,} pixels; a limit guards the memory"
        return Refusal(item.name, str(error), fix)
    except DAMAGE as error:
        return Refusal(item.name, complaint(error), "remove or replace what is damaged")


def _check_refused(refused: list[Refusal], count: int, where: str) -> None:
    if refused:
        names = (f"{refusal.name} ({refusal.reason})" for refusal in refused)
        raise UserError(
            where,
            f"{len(refused):,} of {count:,} images cannot be used: {listed(names, len(refused))}",
            "; ".join(dict.fromkeys(refusal.fix for refusal in refused)),
        )


def _check_sizes(sizes: Counter[tuple[int, int]], rules: PixelRules, where: str) -> None:
    if rules.size is not None or len({min(found) for found in sizes}) <= 1:
        return
    names = (f"{w} x {h} ({number:,})" for (w, h), number in sizes.most_common())
    smallest = min(min(found) for found in sizes)
    raise UserError(
        where,
        f"images of {len(sizes)} sizes, in pixels (and how many): {listed(names, len(sizes))}",
        f"set size, such as size: {smallest}",
    )
