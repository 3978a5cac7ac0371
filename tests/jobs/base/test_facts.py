import pickle

import pytest

from slimctl.jobs.base.facts import (
    Facts,
    FieldError,
    FieldErrors,
    MissingFile,
    check_each,
    check_flip,
    check_labels,
    model_image,
)
from slimctl.models.spec import ImageShape

LABELLED = ImageShape(channels=1, size=8, classes=10)
PLAIN = ImageShape(channels=1, size=8)


@pytest.mark.parametrize(
    ("image", "conditional", "expected"),
    [
        (LABELLED, True, LABELLED),
        (LABELLED, False, PLAIN),
        (PLAIN, False, PLAIN),
    ],
)
def test_a_model_has_the_classes_that_it_follows(image, conditional, expected):
    assert model_image(image, conditional) == expected


def test_a_conditional_model_needs_labels():
    with pytest.raises(FieldError) as error:
        check_labels(Facts(PLAIN), conditional=True, job="faces")
    assert error.value.field == "conditional"
    assert "'faces' has no labels" in error.value.what
    assert "conditional: false" in error.value.fix


@pytest.mark.parametrize(
    ("flip", "valid"), [(None, False), (False, False), (True, True), (True, None), (None, None)]
)
def test_mirroring_that_nothing_forbids(flip, valid):
    check_flip(flip, valid, "digits")


def test_mirroring_that_the_data_forbids():
    with pytest.raises(FieldError) as error:
        check_flip(flip=True, valid=False, job="digits")
    assert error.value.field == "flip"
    assert "'digits' declares that mirrored images are not valid" in error.value.what
    assert "flip_valid: true" in error.value.fix


@pytest.mark.parametrize(
    ("image", "conditional"), [(PLAIN, False), (LABELLED, True), (LABELLED, False), (None, True)]
)
def test_labels_that_are_there_or_not_needed(image, conditional):
    check_labels(Facts(image), conditional, "digits")


# Several checks of one job


def fails(*errors: Exception):
    """A check for each error."""

    def check(error: Exception) -> None:
        raise error

    return [lambda error=error: check(error) for error in errors]


def test_no_failed_check_hides_another():
    first, second = FieldError("a", "wrong", "repair"), MissingFile("b", "gone")
    with pytest.raises(FieldErrors) as caught:
        check_each(Facts(LABELLED), *fails(first), lambda: None, *fails(second))
    assert caught.value.each == (first, second)
    assert caught.value.facts == Facts(LABELLED)
    assert (caught.value.field, caught.value.what, caught.value.fix) == ("a", "wrong", "repair")
    with pytest.raises(FieldErrors) as outer:
        check_each(Facts(), *fails(caught.value, FieldError("c", "too")))
    assert [one.field for one in outer.value.each] == ["a", "b", "c"]
    assert first.each == (first,)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert [one.args for one in copy.each] == [first.args, second.args]
    assert copy.facts == Facts(LABELLED)


def test_checks_that_hold_or_cannot_be_made():
    assert check_each(Facts(PLAIN), lambda: None) == Facts(PLAIN)
    with pytest.raises(ZeroDivisionError):
        check_each(Facts(), *fails(ZeroDivisionError()))
