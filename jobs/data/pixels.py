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
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Any, Literal, NamedTuple

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
TURNING = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
"""What Pillow finds an orientation in."""
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

Encoded = bytes | Path | NDArray[np.uint8] | Callable[[], bytes]
"""An image before decoding: the bytes of a file, what reads them, a file, or pixels (H, W) or
(H, W, 3)."""
Filter = Literal["lanczos", "bicubic", "box", "dhariwal"]
"""How images are resized. All of them average over the area that a new pixel covers."""
Broken = Literal["fail", "skip"]
"""What becomes of a source with images that cannot be used."""
FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}
LARGE = 2**24
"""Pixels from which images are decoded one at a time: the largest take a gigabyte each."""
BAND = 256
"""Rows of a large image that are turned into 8 bits without transparency at a time."""
FILE_LIMIT = 2**30
"""Bytes of the largest file that is looked into where it is damaged."""
_ALONE = RLock()
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
    filter: Filter = "lanczos"
    broken: Broken = "fail"


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
    """Whether red, green and blue are equal in every pixel; False where the channels are given."""


def decode(data: Encoded, rules: PixelRules) -> Pixels:
    """Decodes an image, turns it upright, makes it square, resizes it and sets its channels.

    Shrinking averages over the area that a new pixel covers: by Lanczos's or the bicubic filter
    (after a reduction by whole numbers where that leaves at least three old pixels to a new one),
    by a box, or as ADM prepared ImageNet: halved by boxes, then bicubic, then cut.

    Raises:
        NotSquareError: the image is not square and `rules.crop` is none.
        TooLargeError: the image has more pixels than are ever decoded.
        DAMAGE: any of these, if the file is no readable image.
    """
    if callable(data):
        data = data()
    with ExitStack() as alone:
        image = _whole(data, alone)
        found = image.size
        image = _fit(image, rules)
        values = np.asarray(image)
    return Pixels(values, found, rules.channels is None and is_grey(values))


def _whole(data: bytes | Path | NDArray[np.uint8], alone: ExitStack) -> Image.Image:
    """The upright pixels; a large image keeps others from being decoded until `alone` ends."""
    try:
        return _upright(data, alone)
    except Image.DecompressionBombError:
        raise TooLargeError from None
    except DAMAGE:
        bare = None if isinstance(data, np.ndarray) else only_pixels(_bytes(data))
        if bare is None:
            raise
        return _upright(bare, alone)


def _fit(image: Image.Image, rules: PixelRules) -> Image.Image:
    """Square, of the size and the channels asked for."""
    if rules.filter == "dhariwal" and rules.size is not None:
        image = _dhariwal(image, rules.size, rules.crop)
    else:
        image = _square(image, rules.crop)
    if rules.channels == 1:
        image = image.convert("L")
    if rules.size is None or rules.size == image.width:
        return image
    resampling = FILTERS[rules.filter]
    return image.resize((rules.size, rules.size), resampling, reducing_gap=3.0)


def _dhariwal(image: Image.Image, size: int, crop: Crop) -> Image.Image:
    """Shrinks the shorter side to `size`, then cuts the middle.

    Source: `center_crop_arr` of openai/guided-diffusion, `center-crop-dhariwal` of EDM's
        dataset_tool.py.
    """
    if crop == "none":
        _square(image, crop)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    shape = (round(image.width * scale), round(image.height * scale))
    image = image.resize(shape, Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def is_grey(values: NDArray[np.uint8]) -> bool:
    """Whether pixels of shape (H, W), (..., H, W, 1) or (..., H, W, 3) have no colour."""
    if values.ndim < 3 or values.shape[-1] == 1:
        return True
    middle = values[..., values.shape[-3] // 2, :, :]
    if values.ndim == 3 and (middle != middle[:, :1]).any():
        return False  # seen in one row, as of nearly all that have colour
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
    if isinstance(data, bytes):
        return data
    if data.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{data.stat().st_size:,} bytes, more than an image has")
    return data.read_bytes()


def _upright(data: bytes | Path | NDArray[np.uint8], alone: ExitStack) -> Image.Image:
    """The pixels as grey or colour of 8 bits, turned as the file says that they are meant."""
    with _open(data) as opened:
        if opened.width * opened.height > LARGE:
            alone.enter_context(_ALONE)
        opened.load()  # before the orientation is read, so that damage is not taken for it
        turn = UPRIGHT.get(_orientation(opened))
        return _eight_bit(opened if turn is None else opened.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1..8; 1 = upright, or nothing that can be read."""
    if image.format == "JPEG" and not TURNING.intersection(image.info):
        return 1  # as of most images of large sets, at a tenth of the time
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        # A damaged directory can raise anything at all, and says nothing of the pixels.
        return 1


def _open(data: bytes | Path | NDArray[np.uint8]) -> Image.Image:
    if isinstance(data, np.ndarray):
        return Image.fromarray(data)
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any of Pillow's pixel types as grey (L) or colour (RGB) of 8 bits, without transparency."""
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(image)
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """A transparent image as a browser shows it; in bands, lest it be in memory four times."""
    shown = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND):
        box = (0, top, image.width, min(top + BAND, image.height))
        colours = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        shown.paste(Image.alpha_composite(white, colours).convert("RGB"), box)
    return shown


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 0..65535, rounded to 8 bits; the value marked transparent becomes white."""
    shown = Image.new("L", image.size)
    for top in range(0, image.height, BAND):
        box = (0, top, image.width, min(top + BAND, image.height))
        shown.paste(Image.fromarray(_rounded(np.asarray(image.crop(box)), image)), box)
    return shown


def _rounded(deep: NDArray[Any], image: Image.Image) -> NDArray[np.uint8]:
    """Some rows of an image of 16 bits."""
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError(f"pixels of type {image.mode}, neither 8 nor 16 bits deep")
    rounded = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rounded[deep == transparent] = 255
    return rounded


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
