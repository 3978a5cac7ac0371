import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, Place, Problem
from slimctl.orchestrator.pipeline.source import (
    MAX_DEPTH,
    Node,
    parse_document,
    parse_yaml,
    read_document,
    yaml_text,
)

TEXT = """\
# a comment
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  teacher:
    kind: train_flow
    network:
      channels: 32
      channel_multipliers:
        - 1
        - 2
    steps:
      3000
"""


def problems_of(path: str | Path) -> list[str]:
    with pytest.raises(PipelineProblems) as caught:
        read_document(path)
    return str(caught.value).splitlines()


def test_data_and_positions():
    document = parse_document(TEXT, "f.yaml")
    assert document.data["jobs"]["teacher"]["steps"] == 3000
    assert document.place(())[1:] == (2, 1)
    assert document.place(("name",))[1:] == (2, 1)
    assert document.place(("name",), "value")[1:] == (2, 7)
    assert document.place(("jobs", "data", "source"))[1:] == (4, 30)
    assert document.place(("jobs", "teacher", "network", "channel_multipliers", 1))[1:] == (11, 11)
    assert document.place(("jobs", "teacher", "steps"))[1:] == (12, 5)
    assert document.place(("jobs", "teacher", "steps"), "value")[1:] == (13, 7)


def test_a_mapping_is_found_by_its_key_on_either_side():
    document = parse_document(TEXT, "f.yaml")
    assert document.place(("jobs", "teacher", "network"), "value")[1:] == (7, 5)


def test_what_is_missing_is_found_by_the_key_around_it():
    document = parse_document(TEXT, "f.yaml")
    assert document.place(("jobs", "teacher", "network", "dropout"))[1:] == (7, 5)
    assert document.place(("jobs", "teacher", "steps", "x"))[1:] == (12, 5)
    assert document.place(("seed",))[1:] == (2, 1)
    assert document.node(("jobs", "teacher", "nothing")) is None


def test_an_empty_value_stands_where_its_key_does():
    assert parse_document("a:\nb: 1", "f").place(("a",), "value")[1:] == (1, 1)


def test_a_changed_copy_leaves_the_original_alone():
    document = parse_document("a: &x {b: 1}\nc: *x\nd: [1, 2]", "f.yaml")
    place = Place("--set c.b=2")
    changed = document.with_node(("c", "b"), Node(2, place, place))
    changed = changed.with_node(("d", 1), Node(3, place, place))
    assert changed.data == {"a": {"b": 1}, "c": {"b": 2}, "d": [1, 3]}
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}, "d": [1, 2]}
    assert changed.place(("c", "b")) == place
    assert changed.place(("c",)) == Place("f.yaml", 2, 1)


def test_a_file_is_called_as_the_user_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text("a: 'b")
    assert problems_of("x.yaml")[0].startswith("x.yaml:1: ")
    assert problems_of(tmp_path / "x.yaml")[0].startswith(f"{tmp_path}/x.yaml:1: ")


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    assert problems_of("configs/digits.yaml") == [
        "configs/digits.yaml: there is no such file",
        "  fix: name a pipeline file (.yaml)",
    ]
    Path("configs/digits.yaml").write_text("a: 1")
    Path("configs/cifar10.yml").write_text("a: 1")
    assert problems_of("configs/digit.yaml") == [
        "configs/digit.yaml: there is no such file",
        "  fix: did you mean 'configs/digits.yaml'?",
    ]
    assert problems_of("configs/zzzzzzzz") == [
        "configs/zzzzzzzz: there is no such file",
        "  fix: name 'configs/cifar10.yml' or 'configs/digits.yaml'",
    ]
    assert problems_of("configs") == [
        "configs: this is a folder, not a file",
        "  fix: name 'configs/cifar10.yml' or 'configs/digits.yaml'",
    ]
    assert problems_of("config/digits.yaml") == [
        "config/digits.yaml: there is no folder 'config'",
        "  fix: check the path",
    ]
    assert problems_of("a\0b")[0].endswith("this cannot be read: embedded null byte")


def test_text_that_is_not_utf_8_is_found_by_line(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"name: x\njobs: caf\xe9\n")
    assert problems_of(path) == [
        f"{path}:2: byte 0xe9 is not UTF-8",
        "  fix: save the file in UTF-8",
    ]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: x\n")
    assert read_document(path).data == {"name": "x"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: the file is empty"),
        ("# nothing\n\n", "f.yaml: the file is empty"),
        ("---\n- a\n", "f.yaml:2: a pipeline is a mapping, but this is a list"),
        ("hello", "f.yaml:1: a pipeline is a mapping, but this is a single value"),
        ("null", "f.yaml:1: a pipeline is a mapping, but this is a single value"),
    ],
)
def test_what_is_no_mapping(text: str, message: str):
    with pytest.raises(PipelineProblems) as caught:
        parse_document(text, "f.yaml")
    assert str(caught.value) == f"{message}\n  fix: begin with 'name: ...' and 'jobs: ...'"


def test_keys_at_the_top_can_be_a_place_for_anchors():
    text = "name: x\nx-net: &net {kind: mlp}\njobs: {a: {network: *net, x-b: 1}}\n"
    assert parse_document(text, "f.yaml").data == {
        "name": "x",
        "jobs": {"a": {"network": {"kind": "mlp"}, "x-b": 1}},
    }


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_the_encoding_of_windows_is_named(tmp_path, encoding):
    (tmp_path / "f.yaml").write_bytes(f"\ufeff{TEXT}".encode(encoding))
    assert "the file is in UTF-16, not in UTF-8" in problems_of(tmp_path / "f.yaml")[0]


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


def test_repeated_keys_are_reported_with_both_lines_and_do_not_hinder():
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


def test_all_that_is_no_plain_data_is_reported_at_once():
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


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a:\n\tb: 1", "2", "a tab indents this line"),
        ("a: @x", "1", "this is not YAML: found character '@' that cannot start any token"),
        ("name: x\njobs: a: b", "2", "a ':' stands where no key can be"),
        ("name: x\n seed: 1", "2", "a ':' stands where no key can be"),
        ("a:\n- b\n-c\n", "3", "this key has no ':'"),
        ("- a\nb: 1", "2", "this line does not line up with those above"),
        ("a: 1\nb: 'x\nc: 2\n", "2", "the quotes that open here never close"),
        (
            "a: 1\nb: {c: 1\nd: 2\n",
            "2",
            "the bracket that opens here is not closed, or a ',' is missing in it",
        ),
        ('a: "\\q"', "1", "this is not YAML: found unknown escape character 'q'"),
        ("a: * b", "1", "a name must follow this sign"),
        ("a: [1, , 2]", "1", "a value is missing here"),
        ("a: *x", "1", "this is not YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2", "2", "a second document begins here"),
        ("a: 1\n\u00a0 b: 2", "2", "the invisible character U+00A0 (no-break space) stands here"),
        ("b: 2\na:\u00a01\n", "2", "the invisible character U+00A0 (no-break space) stands here"),
        ("a: 1\u200b", "1", "the invisible character U+200B (zero width space) stands here"),
        ("a: \u201cx\u201d", "1", "\u201c is no quote of YAML's"),
        ("a: [\u2018x\u2019]", "1", "\u2018 is no quote of YAML's"),
        ("a: x\udce9", "1", "the byte 0xe9 is not UTF-8"),
        ("a: 1\nb: x\x07", "2", "the invisible character U+0007 is not allowed"),
    ],
)
def test_syntax_errors_are_said_in_plain_words(text: str, where: str, what: str):
    with pytest.raises(PipelineProblems) as caught:
        parse_document(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.where == f"f.yaml:{where}"
    assert problem.what == what
    assert problem.fix


def test_odd_characters_in_quotes_and_comments_are_meant():
    document = parse_document('a: "x\u00a0\u201cy\u201d"  # \u00a0\nb: don\u2019t', "f.yaml")
    assert document.data == {"a": "x\u00a0\u201cy\u201d", "b": "don\u2019t"}


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["null", "no", "1e-4", "0x1", "~", "<<", "- a", "a: b", "#", "é\u2028\x85", ""]
    ),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(data=st.dictionaries(keys, values, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, object]):
    text = yaml_text(data)
    if data:
        assert parse_document(text, "f.yaml").data == data


def test_layout():
    data = {
        "name": "x y",
        "jobs": {"a": {"kind": "load", "rate": 1e-5, "net": {"k": [1, "b"]}}, "b": {}},
    }
    assert yaml_text(data) == (
        'name: "x y"\njobs:\n  a:\n    kind: load\n    rate: 1e-05\n'
        "    net:\n      k: [1, b]\n  b: {}\n"
    )
