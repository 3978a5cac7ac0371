import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.orchestrator.pipeline.diagnostics import Mistake
from slimctl.orchestrator.pipeline.groups import (
    MAX_LABEL,
    Group,
    label_of,
    origin_of,
    read_iterations,
)


def names(for_each, **parts) -> list[str]:
    read = read_iterations("g", for_each, parts)
    assert read.mistakes == []
    return [one.name for one in read.found]


def said(for_each, **parts) -> list[str]:
    read = read_iterations("g", for_each, parts)
    assert read.found == [] or read.mistakes
    return [f"{'.'.join(map(str, one.path))}: {one.what}" for one in read.mistakes]


def test_every_combination_is_made_in_order():
    assert names({"a": [8, 16], "b": ["x", "y"]}) == ["a=8.b=x", "a=8.b=y", "a=16.b=x", "a=16.b=y"]


def test_chosen_combinations():
    read = read_iterations("g", [{"a": 1, "b": 2}, {"b": 3, "a": 1}], {})
    assert [one.values for one in read.found] == [{"a": 1, "b": 2}, {"a": 1, "b": 3}]
    assert [one.name for one in read.found] == ["a=1.b=2", "a=1.b=3"]


def test_values_can_be_named():
    read = read_iterations("g", {"net": {"small": {"c": 8}, "large": {"c": 99}}}, {})
    assert [(one.name, one.values["net"]["c"]) for one in read.found] == [
        ("net=small", 8), ("net=large", 99),
    ]  # fmt: skip


def test_parts_of_a_job_are_counted_from_zero():
    read = read_iterations("g", {"part": "split"}, {"part": 3})
    assert [one.values for one in read.found] == [{"part": 0}, {"part": 1}, {"part": 2}]
    assert said({"part": "split"}, part=Mistake(("jobs",), "no parts")) == ["jobs: no parts"]


def test_adding_a_value_renames_nothing():
    long = "a text that is much longer than a name ought to be"
    before = names({"a": [0.5, long], "b": [1, {"x": 2}]})
    assert set(before) < set(names({"a": [0.1, 0.5, "more", long], "b": [{"x": 2}, 1, 7]}))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (8, "8"), (-1, "-1"), (0.5, "0.5"), (1e-4, "0.0001"), (1.0, "1"), (1e-7, "1e-07"),
        (True, "true"), (None, "null"), ("digits", "digits"), ([1, 2, 2], "1-2-2"),
        ({"kind": "linear", "length": 400}, "linear-400"), ([], "4f53cd"),
    ],
)  # fmt: skip
def test_what_values_are_called(value, label):
    assert label_of(value) == label


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)  # fmt: skip


@given(json_like)
def test_any_value_can_be_called_something(value):
    label = label_of(value)
    assert 0 < len(label) <= MAX_LABEL
    assert set(label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")


@given(st.text(), st.text())
def test_different_texts_have_different_labels(one, other):
    assert (label_of(one) == label_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("for_each", "mistakes"),
    [
        ({}, [("jobs.g.for_each: group 'g': for_each must name at least one variable with its "
              "values")]),
        ([], [("jobs.g.for_each: group 'g': for_each must name at least one variable with its "
              "values")]),
        ({"a": [], "b": None, "c": {}, "d": 3},
         ["jobs.g.for_each.a: group 'g': a has no values",
          "jobs.g.for_each.b: group 'g': b has no values",
          "jobs.g.for_each.c: group 'g': c has no values",
          "jobs.g.for_each.d: group 'g': d has one value, 3"]),
        ({"a": [1, 2, 1.0]}, ["jobs.g.for_each.a.2: group 'g': a has the value '1' twice"]),
        ({"a": [1, "1"]}, ["jobs.g.for_each.a.1: group 'g': a has the value '1' twice"]),
        ({"a b": [1]}, ["jobs.g.for_each.a b: group 'g': 'a b' cannot be the name of a variable"]),
        ({"a": {"x.y": 1}},
         ["jobs.g.for_each.a: group 'g': 'x.y' cannot stand in the name of a job"]),
        ([{"a": 1}, {"b": 1}, {}, {"a": 1}],
         ["jobs.g.for_each.1: group 'g': this combination has 'b', the first one 'a'",
          "jobs.g.for_each.2: group 'g': a combination must be a mapping of variables to values"]),
        ([{"a": 1}, {"a": 1}],
         ["jobs.g.for_each.1: group 'g': for_each has the value 'a=1' twice"]),
        ({name: list(range(20)) for name in "abcd"},
         ["jobs.g.for_each: group 'g': for_each stands for 160,000 combinations"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_for_each(for_each, mistakes):
    assert said(for_each) == mistakes


def test_a_name_tells_where_a_job_is_from():
    found = origin_of("students.rate=0.5.seed=0.quality")
    assert (found.group, found.iteration, found.member) == (
        "students",
        "rate=0.5.seed=0",
        "quality",
    )
    assert found.short == "students.quality"
    assert found.name == "students.rate=0.5.seed=0.quality"
    assert origin_of("data.v2") is None


def test_specs_made_in_python_become_templates():
    group = Group(for_each={"n": [1]}, jobs={"d": LoadDataset(source="${n}")})
    assert group.jobs["d"]["kind"] == "load_dataset"
    assert group.jobs["d"]["source"] == "${n}"
