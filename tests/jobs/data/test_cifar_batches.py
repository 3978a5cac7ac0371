import os
import pickle

import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.read import read_images
from slimctl.jobs.data.source import find_source

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


@pytest.fixture
def folder(tmp_path):
    """A whole data set of two images in each batch; the image's number is in its pixels."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(BATCHES):
        data = draw.integers(0, 256, (2, 3072), np.uint8)
        data[:, 0] = 2 * number, 2 * number + 1
        write(tmp_path / name, {b"data": data, b"labels": [number % 2, 1 - number % 2]})
    write(tmp_path / "batches.meta", {b"label_names": [b"cat", b"dog"], b"num_vis": 3072})
    return tmp_path


def write(path, content):
    path.write_bytes(pickle.dumps(content, 4))


def refusal(folder, **rules):
    with pytest.raises(UserError) as error:
        read_images(str(folder), **rules)
    return error.value


@pytest.mark.parametrize(
    ("split", "first", "count"), [(None, 0, 12), ("train", 0, 10), ("test", 10, 2)]
)
def test_batches_in_order(folder, split, first, count):
    loaded = read_images(str(folder), split=split)
    assert loaded.images.shape == (count, 32, 32, 3)
    assert loaded.images[:, 0, 0, 0].tolist() == list(range(first, first + count))
    assert loaded.class_names == ("cat", "dog")
    assert loaded.flip_valid is True
    assert loaded.label_counts == (count // 2, count // 2)


def test_planes_become_pixels(folder):
    data = np.zeros((1, 3072), np.uint8)
    data[0, 1024 * 2 + 32 * 5 + 7] = 9
    write(folder / "test_batch", {b"data": data, b"labels": [0]})
    (folder / "batches.meta").unlink()
    (image,) = read_images(str(folder), split="test", channels=3).images
    assert image[5, 7].tolist() == [0, 0, 9]
    assert image.sum() == 9


def test_rules_are_followed(folder):
    loaded = read_images(str(folder), size=8, channels=1, max_images=3, labels=False)
    assert loaded.images.shape == (3, 8, 8, 1)
    assert (loaded.labels, loaded.class_names) == (None, ())


def test_the_names_are_optional_and_count_as_content(folder):
    assert folder / "batches.meta" in find_source(str(folder)).content
    (folder / "batches.meta").unlink()
    assert read_images(str(folder)).class_names == ()


@pytest.mark.parametrize("inside", ["", "cifar-100-python"])
def test_the_two_labels_of_cifar_100(tmp_path, inside):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    for name in ("train", "test"):
        numbers = {b"fine_labels": [2, 0, 1], b"coarse_labels": [1, 0, 0]}
        write(folder / name, {b"data": np.zeros((3, 3072), np.uint8), **numbers})
    names = {b"fine_label_names": [b"cat", b"dog", b"oak"], b"coarse_label_names": [b"pet", b"x"]}
    write(folder / "meta", names)
    fine = read_images(str(tmp_path), label="fine_label")
    assert (fine.labels.tolist(), fine.class_names) == ([2, 0, 1] * 2, ("cat", "dog", "oak"))
    coarse = read_images(str(tmp_path), label="coarse_labels", split="test")
    assert (coarse.labels.tolist(), coarse.class_names) == ([1, 0, 0], ("pet", "x"))
    unsaid = read_images(str(tmp_path))
    assert (unsaid.labels, unsaid.label_columns) == (None, ("fine_label", "coarse_label"))
    with pytest.raises(UserError, match="no column `label`; it has `fine_label`, `coarse_label`"):
        read_images(str(tmp_path), label="label")


def test_code_in_a_batch_is_not_run(folder):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(folder / "was-here"),)

    for name in ("data_batch_3", "batches.meta"):
        whole = (folder / name).read_bytes()
        write(folder / name, {b"data": Malicious()})
        error = refusal(folder)
        assert error.where == str(folder / name)
        assert "would use posix.mkdir" in error.what
        assert not (folder / "was-here").exists()
        (folder / name).write_bytes(whole)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "it is a list"),
        ({}, "it has nothing"),
        ({b"fine_labels": [1], b"data": PIXELS}, "it has fine_labels, data"),
        ({(1, 2): 3}, "it has tuple"),
        ({b"data": b"abc", b"labels": [0, 1]}, "it has data, labels"),
        ({b"data": PIXELS[:1], b"labels": [0, 1]}, "shape (1, 3072) for 2 labels"),
        ({b"data": PIXELS.T.copy(), b"labels": [0, 1]}, "shape (3072, 2)"),
        ({b"data": PIXELS.astype(np.int32), b"labels": [0, 1]}, "type 'i4', not of bytes"),
        ({b"data": PIXELS, b"labels": [0, -1]}, "row 1: -1"),
        ({b"data": PIXELS, b"labels": [0, 10**30]}, "not one whole number per image"),
        ({b"data": PIXELS, b"labels": [0, 2]}, "not among 0..1: row 1: 2"),
        ({b"data": PIXELS, b"labels": [0, "dog"]}, "not all whole numbers"),
        ({b"data": PIXELS, b"labels": [0, [1, 2]]}, "not all whole numbers"),
    ],
)
def test_what_is_no_batch_is_refused(folder, content, words):
    write(folder / "data_batch_2", content)
    error = refusal(folder)
    assert words in error.what
    assert error.where == str(folder / "data_batch_2")


def test_a_missing_class_is_reported(folder):
    write(folder / "test_batch", {b"data": PIXELS, b"labels": [1, 1]})
    assert "1 of 2 classes have no image in it: 0 (cat)" in refusal(folder, split="test").what
