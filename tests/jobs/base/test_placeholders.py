import pytest

from slimctl.jobs.base.placeholders import fill, placeholders

VALUES = {"n": 8, "rate": 1e-4, "on": True, "none": None, "net": {"kind": "a", "c": [1]}, "s": "x"}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("${n}", 8),
        ("${ n }", 8),
        ("${rate}", 1e-4),
        ("${on}", True),
        ("${none}", None),
        ("${net}", {"kind": "a", "c": [1]}),
        ("${s}", "x"),
        ("images-${n}.npz", "images-8.npz"),
        ("${n}${s}", "8x"),
        ("${on}/${none}/${rate}", "true/null/0.0001"),
        ("$${n}", "${n}"),
        ("a$${n}${n}", "a${n}8"),
        ("${other}", "${other}"),
        ("${other}${n}", "${other}8"),
        ("$5 and $", "$5 and $"),
        ({"steps": "${n}", "k": ["${s}", 1]}, {"steps": 8, "k": ["x", 1]}),
        (3.5, 3.5),
    ],
)
def test_values_are_put_in_with_their_types(template, filled):
    found = fill(template, VALUES)
    assert found == filled
    assert type(found) is type(filled)


def test_every_placeholder_is_found_where_it_stands():
    template = {"a": "${n}", "b": [{"c": "x${s}y${ n }"}, "$${no}"], "d": 3}
    assert list(placeholders(template)) == [
        (("a",), "n"),
        (("b", 0, "c"), "s"),
        (("b", 0, "c"), "n"),
    ]
