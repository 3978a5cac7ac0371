import pytest

from jobs.base.facts import Facts, FieldError, check_flip, model_image
from models.spec import ImageShape

LABELLED = ImageShape(channels=1, size=8, classes=10)
PLAIN = ImageShape(channels=1, size=8)


@pytest.mark.parametrize(
    ("image", "conditional", "expected"),
    [
        (LABELLED, True, LABELLED),
        (LABELLED, False, PLAIN),
        (PLAIN, False, PLAIN),
        (None, True, None),
        (None, False, None),
    ],
)
def test_a_model_has_the_classes_that_it_follows(image, conditional, expected):
    assert model_image(Facts(image), conditional, "data") == expected


def test_a_conditional_model_needs_labels():
    with pytest.raises(FieldError) as error:
        model_image(Facts(PLAIN), conditional=True, job="faces")
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
