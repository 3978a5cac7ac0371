import pytest
from pydantic import ValidationError

from slimctl.models.spec import ImageShape, Spec


class Numbers(Spec):
    one: int | None = None
    several: tuple[int, ...] = ()


def test_a_shape_in_words():
    assert str(ImageShape(channels=1, size=8)) == "8 x 8 x 1"
    assert str(ImageShape(channels=3, size=32, classes=10)) == "32 x 32 x 3 with 10 classes"


@pytest.mark.parametrize("fields", [{"one": 2**63}, {"one": -(2**63) - 1}, {"several": (1, 2**64)}])
def test_whole_numbers_have_bounds(fields):
    with pytest.raises(ValidationError, match="9223372036854"):
        Numbers(**fields)
    assert Numbers(one=2**63 - 1, several=(-(2**63),)).one == 2**63 - 1
