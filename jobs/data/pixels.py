"""One image file to one square of pixels.

Transparent images are laid over white, as a browser's page would show them, and animations give
their first frame. Only decoders that know a file by its first bytes are ever tried, since others
among Pillow's take anything for theirs (TGA), or start outside programs (EPS runs PostScript).
What is broken beside the pixels (EXIF, texts, colour profiles) does not count: an image is damaged
if its pixels are.
"""

import io
import logging
import struct
import sys
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000"),
    *("PPM", "QOI", "SGI", "PCX", "PSD", "ICO"),
)
"""Decoders that may read a file, whatever its name says."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF 2.32, table 6, that is not upright."""
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on files that are cut off, damaged or no images."""

Encoded = bytes | Path | NDArray[np.uint8]
"""An image before decoding: the bytes of a file, a file, or pixels (H, W) or (H, W, 3)."""
Crop = Literal["center", "none"]
"""How an image that is not square becomes so: cut at the centre, or refused."""
Channels = Literal[1, 3]

# What is wrong with a file is said once, by `complaint`, and not by a line of Pillow's log as well.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class PixelRules(NamedTuple):
    """What every image is turned into."""

    size: int | None = None
    """Height and width, px; None = as it is."""
    crop: Crop = "center"
    channels: Channels | None = None
    """1 = grey by luminance, 3 = colour; None = 1 if all images are grey, else 3."""


class NotSquareError(Exception):
    """An image is not square and the rules forbid to cut it; says its size."""


class TooLargeError(Exception):
    """An image has more pixels than are ever decoded, lest a small file fill the memory."""

    def __init__(self) -> None:
        super().__init__(f"more than {pixel_limit():,} pixels")


class Pixels(NamedTuple):
    """One decoded image."""

    values: NDArray[np.uint8]
    """Shape (S, S) or (S, S, 3)."""
    found: tuple[int, int]
    """Width and height in the file, turned upright, px."""
    is_grey: bool
    """Whether red, green and blue are equal in every pixel."""


def decode(data: Encoded, rules: PixelRules) -> Pixels:
    """Decodes an image, turns it upright, makes it square, resizes it and sets its channels.

    Shrinking averages over the area that a new pixel covers (Lanczos, after a reduction by whole
    numbers where that leaves at least three old pixels to a new one).

    Raises:
        NotSquareError: the image is not square and `rules.crop` is none.
        TooLargeError: the image has more pixels than are ever decoded.
        DAMAGE: any of these, if the file is no readable image.
    """
    try:
        image = _upright(data)
    except Image.DecompressionBombError:
        raise TooLargeError from None
    except DAMAGE:
        bare = None if isinstance(data, np.ndarray) else only_pixels(_bytes(data))
        if bare is None:
            raise
        image = _upright(bare)
    found = image.size
    image = _square(image, rules.crop)
    if rules.channels == 1:
        image = image.convert("L")
    if rules.size is not None and rules.size != image.width:
        shape = (rules.size, rules.size)
        image = image.resize(shape, Image.Resampling.LANCZOS, reducing_gap=3.0)
    values = np.asarray(image)
    return Pixels(values, found, is_grey(values))


def is_grey(values: NDArray[np.uint8]) -> bool:
    """Whether pixels of shape (H, W), (..., H, W, 1) or (..., H, W, 3) have no colour."""
    if values.ndim < 3 or values.shape[-1] == 1:
        return True
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    return bool((red == green).all() and (green == blue).all())


def pixel_limit() -> int:
    """Pixels of the largest image that is decoded: Pillow refuses twice what it warns of."""
    return 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)


def complaint(error: BaseException) -> str:
    """Says in a few words what is wrong with a file."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a format that is read"
    return str(error) or type(error).__name__


def _bytes(data: bytes | Path) -> bytes:
    return data if isinstance(data, bytes) else data.read_bytes()


def _upright(data: Encoded) -> Image.Image:
    """The pixels as grey or colour of 8 bits, turned as the file says that they are meant."""
    with _open(data) as opened:
        opened.load()  # before the orientation is read, so that damage is not taken for it
        turn = UPRIGHT.get(_orientation(opened))
        return _eight_bit(opened if turn is None else opened.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1..8; 1 = upright, or nothing that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        # A damaged directory can raise anything at all, and says nothing of the pixels.
        return 1


def _open(data: Encoded) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any of Pillow's pixel types as grey (L) or colour (RGB) of 8 bits, without transparency."""
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 0..65535, rounded to 8 bits; the value marked transparent becomes white."""
    deep = np.asarray(image)
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError(f"pixels of type {image.mode}, neither 8 nor 16 bits deep")
    rounded = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rounded[deep == transparent] = 255
    return Image.fromarray(rounded)


def _square(image: Image.Image, crop: Crop) -> Image.Image:
    width, height = image.size
    if width == height:
        return image
    if crop == "none":
        raise NotSquareError(f"{width} x {height}")
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT = (b"tRNS", b"eXIf")
"""Chunks kept beside the critical ones: which colour is transparent, and which way is up."""


def only_pixels(data: bytes) -> bytes | None:
    """The file with its critical chunks, `tRNS` and `eXIf` only; None if it is no PNG.

    A file that ends within a chunk ends there afterwards, too.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept = [SIGNATURE]
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name = data[place + 4 : place + 8]
        end = place + 12 + length  # length, name and checksum are 4 bytes each
        is_critical = not name[0] & 0x20  # a capital letter; source: PNG 3rd edition, 5.4
        if is_critical or name in KEPT:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)
