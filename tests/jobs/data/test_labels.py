import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.loaded import LoadedImages, check_classes, check_labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.int64, np.float32, np.float64])
def test_whole_numbers_of_any_type_become_int64(dtype):
    labels = check_labels(np.array([2, 0, 1], dtype), ("a", "b", "c"), "here")
    np.testing.assert_array_equal(labels, [2, 0, 1])
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("values", "names", "words"),
    [
        ([0, -1, 1, -7], (), "2 of 4 labels are not among 0, 1, 2, ...: row 1: -1, row 3: -7"),
        ([0, 0.5], (), "1 of 2 labels are not among 0, 1, 2, ...: row 1: 0.5"),
        ([0, np.nan, np.inf], (), "row 1: missing, row 2: inf"),
        ([0, 2, 1], ("a", "b"), "1 of 3 labels are not among 0..1: row 1: 2"),
    ],
)
def test_bad_labels_are_named_by_row(values, names, words):
    with pytest.raises(UserError) as error:
        check_labels(np.array(values), names, "file.parquet")
    assert words in error.value.what
    assert error.value.where == "file.parquet"


def test_only_the_first_bad_rows_are_named():
    with pytest.raises(UserError, match="row 9: -1 and 990 more"):
        check_labels(np.full(1000, -1), (), "here")


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([True]), np.zeros((2, 1))])
def test_labels_that_are_no_numbers_are_refused(values):
    with pytest.raises(UserError, match="not one whole number per image"):
        check_labels(values, (), "here")


def test_a_gap_is_reported():
    with pytest.raises(UserError, match=r"3 of 6 classes have no image in it: 1, 3, 4"):
        check_classes(np.array([0, 2, 5]), (), "here", cut=False)


def test_a_huge_label_costs_nothing():
    with pytest.raises(UserError, match=r"of 1,000,000,000,001 classes .* 1, 2, 3,.*more"):
        check_classes(np.array([0, 10**12]), (), "here", cut=False)


def test_a_class_without_image_is_reported_by_name():
    with pytest.raises(UserError) as error:
        check_classes(np.array([0, 0, 2]), ("cat", "dog", "eel", "fox"), "here", cut=True)
    assert "2 of 4 classes have no image in the first 3 images: 1 (dog), 3 (fox)" in str(
        error.value
    )
    assert "max_images" in error.value.fix


def test_complete_labels_pass():
    check_classes(np.array([1, 0, 2]), ("a", "b", "c"), "here", cut=False)
    check_classes(np.array([0, 0]), (), "here", cut=False)


def test_counts_of_what_was_loaded():
    images = np.zeros((3, 2, 2, 1), np.uint8)
    labels = np.array([0, 2, 2])
    assert LoadedImages(images, None, (), None, "").label_counts == ()
    assert LoadedImages(images, None, (), None, "").class_count == 0
    assert LoadedImages(images, labels, (), None, "").label_counts == (1, 0, 2)
    named = LoadedImages(images, labels, ("a", "b", "c", "d"), None, "")
    assert (named.class_count, named.label_counts) == (4, (1, 0, 2, 0))
