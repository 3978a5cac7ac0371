import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.orchestrator.problems import PipelineProblems, Place, Problem
from slimctl.orchestrator.source import MAX_DEPTH, Node, parse_yaml


def at(line: int, column: int) -> Place:
    return Place("f.yaml", line, column)


def read(text: str) -> Node:
    return parse_yaml(text, at)[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0b1", "0b1"),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("~", None),
        ("null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ("'5'", "5"),
        ('"null"', "null"),
        ("!!str 5", "5"),
        ("!!float 3", 3.0),
        ("[1, [a], {b: 2}]", [1, ["a"], {"b": 2}]),
        ("%YAML 1.1\n---\nyes", "yes"),
    ],
)
def test_values_follow_the_core_schema_of_yaml_1_2(text: str, value: object):
    found = read(text).plain()
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_as_written():
    assert read("1: a\ntrue: b\nnull: c\n1e3: d").plain() == {
        "1": "a",
        "true": "b",
        "null": "c",
        "1e3": "d",
    }


def test_repeated_keys_are_told_with_both_lines_and_do_not_hinder():
    node, repeated = parse_yaml("a: 1\nb:\n  c: 1\n  c: 2\na: 3", at)
    assert node.plain() == {"a": 3, "b": {"c": 2}}
    assert [(one.line, one.what) for one in repeated] == [
        (4, "'c' is given twice, first in line 3"),
        (5, "'a' is given twice, first in line 1"),
    ]


def test_anchors_aliases_and_merges():
    node = read("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x\nw: {<<: [{b: 9}, *x], c: 4}")
    assert node.plain() == {
        "x": {"a": 1, "b": 2},
        "y": {"a": 1, "b": 3},
        "z": {"a": 1, "b": 2},
        "w": {"a": 1, "b": 9, "c": 4},
    }
    assert node.value["z"].key.line == 3
    assert node.value["z"].value["a"].key.line == 1


def test_an_anchor_may_be_used_again():
    assert read("- &a 1\n- *a\n- &a 2\n- *a").plain() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: !lua print", 2, "the tag '!lua' is not plain data"),
        ("a: !!set {b}", 1, "the tag '!!set' is not plain data"),
        ("a: !!binary aGk=", 1, "the tag '!!binary' is not plain data"),
        ("a:\n  b: !!int many", 2, "'many' cannot be read as int"),
        ("a: " + "9" * 5000, 1, f"'{'9' * 40}' cannot be read as int"),
        ("a: 1\n? [b]\n: c", 2, "a key must be text, not a list or a mapping"),
        ("name: {{ name }}", 1, "a key must be text, not a list or a mapping"),
        ("a: &a [*a]", 1, "an alias to what it is part of"),
        ("a: &a 1\nb: {<<: *a}", 1, "'<<' must name a mapping"),
        ("[" * (MAX_DEPTH + 1), 1, "the values are nested too deeply"),
        ("[" * 5000, 0, "the values are nested too deeply"),
    ],
)
def test_what_is_no_plain_data_is_refused(text: str, line: int, what: str):
    with pytest.raises(PipelineProblems) as caught:
        read(text)
    (problem, *_) = caught.value.problems
    assert problem.what == what
    assert problem.line in (line, 1)
    assert problem.fix


def test_all_that_is_no_plain_data_is_told_at_once():
    with pytest.raises(PipelineProblems) as caught:
        read("a: !x 1\na: 2\nb: !y 3")
    assert [problem.line for problem in caught.value.problems] == [1, 2, 3]


def test_nested_aliases_cannot_fill_the_memory():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    sizes = [10]
    for _ in range(9):
        sizes.append(1 + 9 * sizes[-1])
    with pytest.raises(PipelineProblems, match=f"stand for {1 + sum(sizes):,} values"):
        read("\n".join(lines))


def test_children_by_key_and_index():
    node = read("a: [1, {b: 2}]")
    assert node.child("a") is node.value["a"]
    assert node.child("c") is None
    items = node.value["a"]
    assert items.child(0).value == 1
    assert items.child(2) is None
    assert items.child("b") is None
    assert items.child(0).child("x") is None


yaml_like = st.text(alphabet="ab1:-[]{},&*!|>'\"#%@`?<~\\ \n\t.e", max_size=40)


@settings(deadline=None, max_examples=400)
@given(text=st.one_of(yaml_like, st.text(max_size=30)))
def test_any_text_gives_a_value_or_problems(text: str):
    problems: tuple[Problem, ...] = ()
    try:
        read(text).plain()
    except PipelineProblems as error:
        problems = error.problems
    assert all(problem.what and problem.fix for problem in problems)
