import numpy as np
import pytest
from PIL import Image

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import BATCH, Item, collect, fit_array
from slimctl.jobs.data.pixels import PixelRules


@pytest.fixture
def items(encode):
    def make(images):
        return (Item(f"{i}.png", encode(image)) for i, image in enumerate(images))

    return make


def test_images_come_in_order_over_several_batches(items, colours):
    images = colours(2 * BATCH + 37, 3, 3)
    found = collect(items(images), len(images), PixelRules(), "here")
    np.testing.assert_array_equal(found, images)
    assert found.flags.c_contiguous


def test_all_grey_gives_one_channel(items):
    images = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    as_colour = np.repeat(images[..., None], 3, axis=3)
    for given in (images, as_colour, [images[0], as_colour[1]]):
        found = collect(items(given), 2, PixelRules(), "here")
        np.testing.assert_array_equal(found, images[..., None])
        assert found.flags.c_contiguous


def test_one_colour_image_makes_all_colour(items, colours):
    grey = np.full((6, 6), 7, np.uint8)
    (colour,) = colours(1)
    found = collect(items([grey, colour]), 2, PixelRules(), "here")
    np.testing.assert_array_equal(found, [np.full((6, 6, 3), 7), colour])


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_as_asked(items, colours, channels):
    grey = np.full((6, 6), 7, np.uint8)
    found = collect(items([grey, colours(1)[0]]), 2, PixelRules(channels=channels), "here")
    assert found.shape == (2, 6, 6, channels)
    assert (found[0] == 7).all()


def test_all_damaged_images_are_named_at_once(items, colours):
    images = [Item(f"bad{i}.png", b"no image") for i in range(12)]
    good = list(items(colours(3)))
    with pytest.raises(UserError) as error:
        collect(good + images, 15, PixelRules(), "folder")
    assert error.value.where == "folder"
    assert "12 of 15 images" in error.value.what
    assert "bad9.png (not an image of a format that is read) and 2 more" in error.value.what
    assert "bad10" not in error.value.what
    assert error.value.fix == "remove or replace what is damaged"


def test_images_that_are_not_square_are_named(items, colours):
    with pytest.raises(UserError) as error:
        collect(items([colours(1)[0], colours(1, 4, 5)[0]]), 2, PixelRules(crop="none"), "here")
    assert "1.png (5 x 4, not square)" in error.value.what
    assert error.value.fix == "set crop: center for those that are not square"


def test_both_mistakes_at_once(items, colours):
    mixed = [Item("a.png", b""), *items(colours(1, 4, 5))]
    with pytest.raises(UserError, match=r"a\.png .*0\.png") as error:
        collect(mixed, 2, PixelRules(crop="none"), "here")
    assert error.value.fix.count(";") == 1


def test_mixed_sizes_are_named_with_their_number(items, colours):
    images = [*colours(3, 8, 8), *colours(1, 6, 5)]
    with pytest.raises(UserError) as error:
        collect(items(images), 4, PixelRules(), "here")
    assert "8 x 8 (3), 5 x 6 (1)" in error.value.what
    assert "size: 5" in error.value.fix
    assert collect(items(images), 4, PixelRules(size=5), "here").shape == (4, 5, 5, 3)


def test_sizes_that_crop_to_the_same_square_agree(items, colours):
    images = [*colours(1, 6, 6), *colours(1, 6, 9)]
    assert collect(items(images), 2, PixelRules(), "here").shape == (2, 6, 6, 3)


@pytest.mark.parametrize("size", [None, 4, 6])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("shape", [(6, 6), (6, 8)])
@pytest.mark.parametrize("grey", [False, True])
def test_arrays_are_treated_like_files(items, colours, size, channels, shape, grey):
    images = colours(3, *shape)
    if grey:
        images[:] = images[..., :1]
    rules = PixelRules(size=size, channels=channels)
    expected = collect(items(images), 3, rules, "here")
    found = fit_array(images, rules, "here")
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
    if grey:
        np.testing.assert_array_equal(fit_array(images[..., :1], rules, "here"), expected)


def test_arrays_that_are_not_square_are_refused_where_none_may_be_cut(colours):
    with pytest.raises(UserError, match="6 x 4, not square"):
        fit_array(colours(2, 4, 6), PixelRules(crop="none"), "here")


def test_large_images_are_read_in_silence_and_larger_ones_refused_as_such(
    monkeypatch, items, colours
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert collect(items(colours(1, 12, 12)), 1, PixelRules(), "folder").shape == (1, 12, 12, 3)
    with pytest.raises(UserError) as error:
        collect(items(colours(1, 20, 20)), 1, PixelRules(), "folder")
    assert "(more than 200 pixels)" in error.value.what
    assert "shrink those of more than 200 pixels" in error.value.fix
