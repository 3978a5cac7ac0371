"""What a sweep may choose from."""

import math

import pytest
from pydantic import ValidationError

from slimctl.jobs.search.spec import Dimension


@pytest.mark.parametrize(
    "choice",
    [
        (0.1, 0.10),
        (1, 1.0),
        (1e-1, "0.1"),
        ("a", "b", "a"),
        ({"k": 1, "l": 2}, {"l": 2.0, "k": 1}),
        ([1, 2], [1.0, 2]),
        (None, None),
    ],
)
def test_equal_choices_are_refused(choice):
    with pytest.raises(ValidationError, match="two equal values"):
        Dimension(choice=choice)


@pytest.mark.parametrize(
    "choice", [(0.1, 0.2), (True, 1), ("nan", "inf"), (2**60, 2**60 + 1), (None, 0, "")]
)
def test_choices_that_differ_are_kept(choice):
    assert Dimension(choice=choice).choice == choice


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, math.nan]])
def test_what_is_no_number_is_no_choice(value):
    with pytest.raises(ValidationError, match="no finite number"):
        Dimension(choice=(0.1, value))


@pytest.mark.parametrize(("value", "fix"), [([1, 2], "[1, 2]"), (0.5, "[0.5]"), ("x", "['x']")])
def test_a_bare_value_is_answered_with_what_to_write(value, fix):
    with pytest.raises(ValidationError) as caught:
        Dimension.model_validate(value)
    assert f"fix: write '{{choice: {fix}}}'" in str(caught.value)
