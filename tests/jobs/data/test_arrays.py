import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.read import read_images


@pytest.fixture
def saved(tmp_path):
    """saved(images=..., labels=...) -> path of an .npz file."""

    def save(**arrays):
        path = tmp_path / "a.npz"
        np.savez(path, **arrays)
        return str(path)

    return save


def refusal(source, **rules):
    with pytest.raises(UserError) as error:
        read_images(source, **rules)
    return error.value


def test_digits_are_stretched_to_bytes():
    from sklearn.datasets import load_digits

    loaded = read_images("digits")
    digits = load_digits()
    assert loaded.images.shape == (1797, 8, 8, 1)
    assert loaded.images.max() == 255
    np.testing.assert_array_equal(np.rint(loaded.images[..., 0] / (255 / 16)), digits.images)
    np.testing.assert_array_equal(loaded.labels, digits.target)
    assert loaded.class_names == tuple("0123456789")
    assert loaded.label_counts == (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
    assert loaded.flip_valid is False


def test_digits_follow_the_rules():
    loaded = read_images("digits", size=16, channels=3, max_images=5)
    assert loaded.images.shape == (5, 16, 16, 3)
    assert (loaded.class_count, loaded.label_counts) == (10, (1,) * 5 + (0,) * 5)
    assert read_images("digits", labels=False).labels is None


def test_bytes_are_kept(saved, colours):
    images = colours(5)
    loaded = read_images(saved(images=images, labels=[0, 1, 2, 1, 0]))
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.labels.tolist() == [0, 1, 2, 1, 0]
    assert (loaded.class_names, loaded.flip_valid) == ((), None)
    assert read_images(saved(images=images)).labels is None


def test_npy_is_images_alone(tmp_path):
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    np.save(tmp_path / "a.npy", images)
    loaded = read_images(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(loaded.images, images[..., None])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_come_back_as_the_bytes_they_were(saved, dtype):
    every_byte = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    floats = (every_byte / 127.5 - 1).astype(dtype)
    np.testing.assert_array_equal(read_images(saved(images=floats)).images, every_byte)


def test_max_images_takes_the_first(saved, colours):
    images = colours(5)
    loaded = read_images(saved(images=images, labels=[0, 1, 2, 1, 0]), max_images=2)
    np.testing.assert_array_equal(loaded.images, images[:2])
    assert loaded.labels.tolist() == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.5, 255.0])
def test_a_bad_pixel_is_found_by_image(saved, bad):
    images = np.full((1500, 2, 2, 1), -0.5, np.float32)
    images[1300, 1, 0] = bad
    images[1400] = bad
    assert f"image 1300 has the value {bad}" in refusal(saved(images=images)).what


def test_floats_from_zero_to_one_are_refused(saved, colours):
    error = refusal(saved(images=colours(2) / 255))
    assert "in [0, 1], not in [-1, 1]" in error.what
    assert "2 * images - 1" in error.fix


@pytest.mark.parametrize(
    ("images", "words", "fix"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "shape (2, 3, 8, 8)", "transpose(0, 2, 3, 1)"),
        (np.zeros((2, 8, 8, 4), np.uint8), "shape (2, 8, 8, 4)", "that shape"),
        (np.zeros((8, 8), np.uint8), "shape (8, 8)", "that shape"),
        (np.zeros((0, 8, 8, 3), np.uint8), "shape (0, 8, 8, 3)", "that shape"),
        (np.zeros((2, 8, 8), np.int64), "images are int64", "uint8"),
        (np.zeros((2, 8, 8), bool), "images are bool", "uint8"),
        (np.zeros((2, 8, 8), complex), "images are complex128", "uint8"),
    ],
)
def test_arrays_of_another_kind_are_refused(saved, images, words, fix):
    error = refusal(saved(images=images))
    assert words in error.what
    assert fix in error.fix


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 0], "labels have shape (3,), images (2, 6, 6, 3)"),
        ([[0], [1]], "labels have shape (2, 1)"),
        ([0, -1], "row 1: -1"),
        ([0, np.nan], "row 1: missing"),
        ([0, 2], "1 of 3 classes have no image in it: 1"),
        (["a", "b"], "not one whole number per image"),
    ],
)
def test_bad_labels_are_refused_unless_left_out(saved, colours, labels, words):
    path = saved(images=colours(2), labels=labels)
    assert words in refusal(path).what
    assert read_images(path, labels=False).labels is None


def test_other_names_are_shown(saved, colours):
    assert "it has x, y" in refusal(saved(x=colours(1), y=[0])).what


def test_files_that_would_be_unpickled_are_refused(tmp_path):
    class Malicious:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "was-here"),)

    objects = np.array([Malicious()], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", images=objects)
    for name in ("a.npy", "a.npz"):
        assert "Object arrays cannot be loaded" in refusal(str(tmp_path / name)).what
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_damaged_files_are_reported(tmp_path, colours, compressed, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, colours(20))
    else:
        (np.savez_compressed if compressed else np.savez)(path, images=colours(20))
    whole = path.read_bytes()
    for broken in (b"", b"nonsense", whole[:50], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        assert "is no readable array file" in refusal(str(path)).what
    if suffix == ".npz":
        path.write_bytes(whole[:600] + bytes(400) + whole[1000:])
        assert "is no readable array file" in refusal(str(path)).what


def test_the_user_names_the_array_of_the_labels(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, kinds=[1, 0])
    assert read_images(str(tmp_path / "a.npz"), label="kinds").labels.tolist() == [1, 0]
    with pytest.raises(UserError, match="no column `sort`; it has `kinds`"):
        read_images(str(tmp_path / "a.npz"), label="sort")


def test_an_array_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((200, 1024, 1024, 1), np.uint8))
    with pytest.raises(UserError, match=r"images\.npy has .* bytes for 209,715,328: it is a bomb"):
        read_images(str(path))
