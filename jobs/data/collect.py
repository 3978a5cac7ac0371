"""Many encoded images into one array, decoded by a few threads.

Damaged images do not stop the reading: all are found first, then the source is refused once with
their names. Only one batch of encoded images is in memory beside the array.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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


class Gathered(NamedTuple):
    """The images that can be used."""

    images: NDArray[np.uint8]
    """Shape (N, S, S, C)."""
    kept: NDArray[np.bool_]
    """Shape (count,), which of those asked for they are."""
    refused: tuple[Refusal, ...]
    """The others."""
    all_grey: bool


def collect(items: Iterable[Item], count: int, rules: PixelRules, where: str) -> NDArray[np.uint8]:
    """The images of `gather`, all of which can be used."""
    return gather(items, count, rules._replace(broken="fail"), where).images


def gather(items: Iterable[Item], count: int, rules: PixelRules, where: str) -> Gathered:
    """Decodes images by the same rules into an array.

    Args:
        items: exactly `count` images, in order; read lazily.
        count: N, at least 1.
        rules: what every image is turned into.
        where: the source, as an error names it.

    Raises:
        UserError: images are damaged, are not square where none may be cut, or differ in size
            where no size is set; where `rules` skip such, only if none can be used, or the others
            differ in size.
    """
    gathered, sizes = decode_all(items, count, rules)
    if rules.broken == "fail" or not sizes:
        check_refused(gathered.refused, count, where)
    check_sizes(sizes, rules, where)
    narrow = rules.channels is None and gathered.all_grey
    return gathered._replace(images=_narrow(gathered.images)) if narrow else gathered


def decode_all(
    items: Iterable[Item],
    count: int,
    rules: PixelRules,
    side: int | None = None,
    threads: int | None = None,
) -> tuple[Gathered, Counter[tuple[int, int]]]:
    """Decodes images; those that cannot be used, or are not of one size, are left out.

    Args:
        items: exactly `count` images, in order; read lazily.
        count: N, at least 1.
        rules: what every image is turned into; `broken` counts for nothing.
        side: height and width of all, px; None = those of the first.
        threads: that decode; None = one per CPU, up to eight.

    Returns:
        The images, of 3 channels where `rules` do not say, and how often each size was found.
    """
    images: NDArray[np.uint8] | None = None
    refused: list[Refusal] = []
    sizes: Counter[tuple[int, int]] = Counter()
    all_grey, kept = True, np.zeros(count, np.bool_)
    with warnings.catch_warnings():
        # Pillow warns of metadata and of large images, which are used or refused by name here.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for index, result in enumerate(_decoded(items, rules, threads)):
            if isinstance(result, Refusal):
                refused.append(result)
                continue
            sizes[result.found] += 1
            all_grey = all_grey and result.is_grey
            if images is None:
                side = side or len(result.values)
                images = np.empty((count, side, side, rules.channels or 3), np.uint8)
            if len(result.values) == side:
                images[index], kept[index] = np.atleast_3d(result.values), True
    if images is None:
        images = np.empty((0, side or 1, side or 1, rules.channels or 3), np.uint8)
    elif not kept.all():
        images = images[kept]
    return Gathered(images, kept, tuple(refused), all_grey), sizes


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


def _decoded(
    items: Iterable[Item], rules: PixelRules, threads: int | None
) -> Iterator[Pixels | Refusal]:
    Image.init()  # Loads the decoders now: Pillow does it at first use, which is not thread-safe.
    source = iter(items)
    work = partial(_decode_chunk, rules=rules)
    if threads == 1:
        yield from map(partial(_decode_one, rules=rules), source)
        return
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1), "decode") as pool:
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


def in_words(refused: Sequence[Refusal], count: int) -> str:
    """Which of `count` images cannot be used, and why."""
    names = (f"{refusal.name} ({refusal.reason})" for refusal in refused)
    return f"{len(refused):,} of {count:,} images cannot be used: {listed(names, len(refused))}"


def check_refused(refused: Sequence[Refusal], count: int, where: str) -> None:
    """Raises UserError where any of `count` images cannot be used."""
    if refused:
        fixes = "; ".join(dict.fromkeys(refusal.fix for refusal in refused))
        raise UserError(where, in_words(refused, count), fixes)


def check_sizes(sizes: Counter[tuple[int, int]], rules: PixelRules, where: str) -> None:
    """Raises UserError where images differ in size and none is asked for."""
    if rules.size is not None or len({min(found) for found in sizes}) <= 1:
        return
    names = (f"{w} x {h} ({number:,})" for (w, h), number in sizes.most_common())
    smallest = min(min(found) for found in sizes)
    raise UserError(
        where,
        f"images of {len(sizes)} sizes, in pixels (and how many): {listed(names, len(sizes))}",
        f"set size, such as size: {smallest}",
    )
