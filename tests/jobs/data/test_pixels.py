import struct
import zlib

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from slimctl.jobs.data.pixels import (
    DAMAGE,
    FORMATS,
    NotSquareError,
    PixelRules,
    TooLargeError,
    complaint,
    decode,
    is_grey,
)

AS_IS = PixelRules()
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""EXIF orientation (tag 0x0112) -> how the stored pixels must be turned."""


def test_lossless_colour_is_bit_equal(colours, encode):
    (image,) = colours(1)
    for form in ("PNG", "BMP"):
        pixels = decode(encode(image, form), AS_IS)
        np.testing.assert_array_equal(pixels.values, image)
        assert pixels.found == (6, 6)
        assert not pixels.is_grey


def test_lossless_webp_is_bit_equal(colours, encode):
    (image,) = colours(1)
    np.testing.assert_array_equal(decode(encode(image, "WEBP", lossless=True), AS_IS).values, image)


def test_reads_a_file_as_it_reads_bytes(colours, encode, tmp_path):
    data = encode(colours(1)[0])
    path = tmp_path / "a.png"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode(path, AS_IS).values, decode(data, AS_IS).values)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_followed(colours, encode, orientation, form):
    (image,) = colours(1, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encode(image, form, exif=exif), AS_IS).values
    expected = UPRIGHT[orientation](decode(encode(image, form), AS_IS).values)
    np.testing.assert_array_equal(turned, expected)


def test_orientation_counts_before_the_size(colours, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encode(colours(1, 4, 9)[0], exif=exif), AS_IS).found == (4, 9)


def test_transparency_is_laid_over_white(encode):
    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]], [[0, 0, 0, 128], [0, 0, 0, 51]]])
    values = decode(encode(image.astype(np.uint8)), AS_IS).values
    np.testing.assert_array_equal(
        values, [[[10, 20, 30], [255, 255, 255]], [[127, 127, 127], [204, 204, 204]]]
    )


def test_transparent_grey_is_laid_over_white_and_stays_grey(encode):
    image = Image.fromarray(np.array([[[40, 255], [40, 0]]] * 2, np.uint8), "LA")
    pixels = decode(encode(image), AS_IS)
    assert pixels.is_grey
    np.testing.assert_array_equal(pixels.values[..., 0], [[40, 255], [40, 255]])


def test_palette_with_and_without_transparency(encode):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([200, 10, 10, 10, 10, 200])
    red, blue, white = [200, 10, 10], [10, 10, 200], [255, 255, 255]
    for form in ("PNG", "GIF"):
        opaque = decode(encode(image, form), AS_IS).values
        np.testing.assert_array_equal(opaque, [[red, blue], [blue, red]])
        clear = decode(encode(image, form, transparency=1), AS_IS).values
        np.testing.assert_array_equal(clear, [[red, white], [white, red]])


def test_a_colour_marked_transparent_becomes_white(encode):
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 1, 2, 3
    values = decode(encode(image, transparency=(1, 2, 3)), AS_IS).values
    np.testing.assert_array_equal(values[0, 0], [255, 255, 255])
    assert values[1, 1].max() == 0


def test_black_and_white_is_grey(encode):
    image = Image.fromarray(np.eye(4, dtype=bool))
    pixels = decode(encode(image), AS_IS)
    np.testing.assert_array_equal(pixels.values, 255 * np.eye(4))
    assert pixels.is_grey


def test_sixteen_bits_are_rounded_to_eight(encode):
    deep = np.array([[0, 65535], [257 * 100, 257 * 100 + 129]], np.uint16)
    values = decode(encode(Image.fromarray(deep)), AS_IS).values
    np.testing.assert_array_equal(values, [[0, 255], [100, 101]])


def test_sixteen_bits_with_a_transparent_value(encode):
    deep = np.array([[0, 1000], [1000, 0]], np.uint16)
    values = decode(encode(Image.fromarray(deep), transparency=1000), AS_IS).values
    np.testing.assert_array_equal(values, [[0, 255], [255, 0]])


def test_cmyk_becomes_colour(encode):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    values = decode(encode(image, "JPEG", quality=100), AS_IS).values
    assert np.abs(values.astype(int) - [255, 0, 0]).max() <= 3


def test_animation_gives_its_first_frame(encode):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(data, AS_IS).values[0, 0], [255, 0, 0])


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (7, 10)])
def test_crop_takes_the_middle(colours, encode, height, width):
    (image,) = colours(1, height, width)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = decode(encode(image), AS_IS)
    np.testing.assert_array_equal(pixels.values, image[top : top + side, left : left + side])
    assert pixels.found == (width, height)


def test_nothing_is_cut_where_that_is_forbidden(colours, encode):
    with pytest.raises(NotSquareError, match="10 x 6"):
        decode(encode(colours(1, 6, 10)[0]), PixelRules(crop="none"))


@pytest.mark.parametrize("size", [1, 5, 32, 100])
def test_resizing_keeps_a_flat_colour(encode, size):
    image = np.full((64, 64, 3), (3, 130, 250), np.uint8)
    values = decode(encode(image), PixelRules(size)).values
    np.testing.assert_array_equal(values, np.broadcast_to([3, 130, 250], (size, size, 3)))


def test_shrinking_averages_instead_of_picking(encode):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    values = decode(encode(board.astype(np.uint8)), PixelRules(16)).values
    assert np.abs(values.astype(int) - 127.5).max() < 2


def test_shrinking_a_ramp_keeps_it_a_ramp(encode):
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8), (240, 240))
    values = decode(encode(ramp.copy()), PixelRules(24)).values
    centres = np.arange(24) * 10 + 4.5
    assert np.abs(values[:, 2:-2] - centres[2:-2]).max() <= 1


def test_grey_by_luminance(encode):
    image = np.zeros((1, 1, 3), np.uint8)
    weights = []
    for channel in range(3):
        one = image.copy()
        one[..., channel] = 255
        weights.append(int(decode(encode(one), PixelRules(channels=1)).values[0, 0]))
    np.testing.assert_allclose(np.array(weights) / 255, [0.299, 0.587, 0.114], atol=0.002)


def test_grey_values_are_kept_by_the_luminance(encode):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.repeat(ramp[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encode(colour), PixelRules(channels=1)).values, ramp)


def test_grey_is_judged_by_the_pixels():
    grey = np.full((4, 4, 3), 9, np.uint8)
    assert is_grey(grey)
    assert is_grey(grey[..., 0])
    assert is_grey(np.zeros((4, 3), np.uint8))
    assert is_grey(np.zeros((2, 4, 3, 1), np.uint8))
    grey[3, 3, 1] = 10
    assert not is_grey(grey)


def test_no_decoder_runs_programs():
    """Pillow would give PostScript to Ghostscript, whatever the file is called."""
    with pytest.raises(UnidentifiedImageError) as error:
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", AS_IS)
    assert complaint(error.value) == "not an image of a format that is read"


def damage(data, rules):
    """What is wrong with a file, or None if it gives pixels."""
    try:
        decode(data, rules)
    except (TooLargeError, *DAMAGE) as error:
        return complaint(error)
    return None


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"PSD"}))  # which Pillow cannot write
@pytest.mark.filterwarnings("ignore")
def test_every_cut_of_a_file_is_damage_or_an_image(colours, encode, form):
    data = encode(colours(1, 12, 12)[0], form)
    found = [damage(data[:length], AS_IS) for length in range(0, len(data), 7)]
    assert all(reason is None or reason for reason in found)
    assert sum(reason is not None for reason in found) > len(found) // 2


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"PSD"}))  # which Pillow cannot write
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_are_damage_or_an_image(colours, encode, form):
    draw = np.random.default_rng(0)
    data = np.frombuffer(encode(colours(1, 12, 12)[0], form), np.uint8)
    for _ in range(200):
        broken = data.copy()
        places = draw.integers(0, min(len(data), 80), 3)
        broken[places] = draw.integers(0, 256, 3)
        reason = damage(broken.tobytes(), PixelRules(8))
        assert reason is None or reason


def test_a_bomb_is_refused_before_it_is_unpacked(encode):
    data = bytearray(encode(np.zeros((2, 2), np.uint8), "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(TooLargeError, match=r"more than 178,956,970 pixels"):
        decode(bytes(data), AS_IS)


def chunk(name, content):
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


LONG = zlib.compress(bytes(2**21))
BESIDE = {
    "a compressed text above Pillow's limit": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "an international text above it": chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG),
    "a profile above it": chunk(b"iCCP", b"profile\0\0" + LONG),
    "a text of another checksum": chunk(b"tEXt", b"Comment\0text")[:-4] + b"nope",
    "EXIF without a header": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "EXIF cut off": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x02\x01\x12"),
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "after them"])
def test_what_is_broken_beside_the_pixels_does_not_count(colours, encode, beside, place):
    (image,) = colours(1)
    data = encode(image)
    np.testing.assert_array_equal(decode(data[:place] + beside + data[place:], AS_IS).values, image)


@pytest.mark.filterwarnings("ignore")  # as `collect` does
def test_broken_exif_of_a_photograph_does_not_count(colours, encode):
    (image,) = colours(1)
    data = encode(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    np.testing.assert_array_equal(
        decode(data, AS_IS).values, decode(encode(image, "JPEG"), AS_IS).values
    )


def test_pixels_that_are_broken_beside_a_text_are_damage(colours, encode):
    data = encode(colours(1, 32, 32)[0])
    half = data[:33] + BESIDE["a profile above it"] + data[33 : len(data) // 2]
    assert damage(half, AS_IS)


@pytest.mark.parametrize("form", ["TIFF", "QOI", "PPM", "PCX", "SGI"])
def test_formats_that_lose_nothing_are_bit_equal(colours, encode, form):
    (image,) = colours(1)
    np.testing.assert_array_equal(decode(encode(image, form), AS_IS).values, image)
