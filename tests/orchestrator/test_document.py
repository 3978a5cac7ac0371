from pathlib import Path

import pytest

from slimctl.orchestrator.problems import PipelineProblems, Place
from slimctl.orchestrator.source import Node, parse_document, read_document

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
    assert document.position(()) == (2, 1)
    assert document.position(("name",)) == (2, 1)
    assert document.position(("name",), "value") == (2, 7)
    assert document.position(("jobs", "data", "source")) == (4, 30)
    assert document.position(("jobs", "teacher", "network", "channel_multipliers", 1)) == (11, 11)
    assert document.position(("jobs", "teacher", "steps")) == (12, 5)
    assert document.position(("jobs", "teacher", "steps"), "value") == (13, 7)


def test_a_mapping_is_found_by_its_key_on_either_side():
    document = parse_document(TEXT, "f.yaml")
    assert document.position(("jobs", "teacher", "network"), "value") == (7, 5)


def test_what_is_missing_is_found_by_the_key_around_it():
    document = parse_document(TEXT, "f.yaml")
    assert document.position(("jobs", "teacher", "network", "dropout")) == (7, 5)
    assert document.position(("jobs", "teacher", "steps", "x")) == (12, 5)
    assert document.position(("seed",)) == (2, 1)
    assert document.node(("jobs", "teacher", "nothing")) is None


def test_an_empty_value_stands_where_its_key_does():
    assert parse_document("a:\nb: 1", "f").position(("a",), "value") == (1, 1)


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
    ("text", "told"),
    [
        ("", "f.yaml: the file is empty"),
        ("# nothing\n\n", "f.yaml: the file is empty"),
        ("---\n- a\n", "f.yaml:2: a pipeline is a mapping, but this is a list"),
        ("hello", "f.yaml:1: a pipeline is a mapping, but this is a single value"),
        ("null", "f.yaml:1: a pipeline is a mapping, but this is a single value"),
    ],
)
def test_what_is_no_mapping(text: str, told: str):
    with pytest.raises(PipelineProblems) as caught:
        parse_document(text, "f.yaml")
    assert str(caught.value) == f"{told}\n  fix: begin with 'name: ...' and 'jobs: ...'"


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
