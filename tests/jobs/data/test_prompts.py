"""Prompts of every kind of file, and what is wrong with them."""

import json
import tarfile
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.prompts import (
    Prompt,
    load_prompts,
    of_templates,
    prompt_files,
    read_prompts,
    write_prompts,
)

WANTED = (Prompt("a cat"), Prompt("ein Kätzchen"), Prompt("a dog"))


def archive(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def write(path):
    texts = [each.text for each in WANTED]
    if path.suffix == ".txt":
        path.write_text("\n".join(texts))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"caption": each}) + "\n" for each in texts))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"id": [1, 2, 3], "text": texts}), path)
    elif path.suffix == ".tar":
        items = {f"{at}.txt": each.encode() for at, each in enumerate(texts)}
        archive(path, {"0.jpg": b"\xff", **items})
    else:
        path.write_text(json.dumps({"annotations": [{"id": 1, "caption": t} for t in texts]}))


def read(path, column=None, longest=1000, most=None, keep=False):
    return read_prompts(prompt_files(str(path)), column, longest, most, keep=keep)


@pytest.mark.parametrize("ending", ["txt", "jsonl", "parquet", "tar", "json"])
def test_every_kind_of_file_holds_the_same_prompts(tmp_path, ending):
    path = tmp_path / f"prompts.{ending}"
    write(path)
    assert read(path).prompts == WANTED
    assert read(tmp_path).prompts == WANTED
    assert read(path, most=2).prompts == WANTED[:2]


def test_empty_long_and_repeated_prompts_are_counted(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeffa  cat\n\n   \na cat\na very long dog\n")
    found = read(path, longest=6)
    assert [each.text for each in found.prompts] == ["a cat", "a very"]
    assert (found.empty, found.cut, found.dropped) == (2, 1, 1)
    assert found.remarks() == [
        "2 prompts are empty and left out",
        "1 prompt is too long and cut",
        "1 prompt is repeated and left out",
    ]
    kept = read(path, keep=True)
    assert len(kept.prompts) == 3
    assert kept.duplicates == 1


def test_labels_travel_with_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a seven", "label": 7}\n"no label"\n')
    found = read(path)
    assert found.prompts == (Prompt("a seven", 7), Prompt("no label"))
    assert found.classes == 8
    write_prompts(found, tmp_path / "out")
    assert load_prompts(tmp_path / "out") == found.prompts
    made = list(of_templates(["zero", "one"], ["a {}", "the {}!"]))
    assert made == [Prompt("a zero", 0), Prompt("a one", 1), Prompt("the zero!", 0),
                    Prompt("the one!", 1)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.txt", b"good\nb\xe4d\n", "a.txt:2", "is not UTF-8: byte 0xe4"),
        ("a.txt", b"\n \n", "a.txt", "holds empty prompts only"),
        ("a.jsonl", b'{"prompt": "x"}\n{"prompt', "a.jsonl:2", "is no JSON"),
        ("a.jsonl", b'{"title": "x"}', "a.jsonl:1", "no text under prompt or caption or text; it"),
        ("a.jsonl", b'{"text": "x", "label": -1}', "a.jsonl:1", "has the label -1"),
        ("a.parquet", b"PAR1", "a.parquet", "cannot be read as Parquet"),
        ("a.tar", b"no tar", "a.tar", "cannot be read as tar"),
        ("a.json", b'{"images": []}', "a.json", "has no list `annotations`"),
        ("a.doc", b"", "a.doc", "ends in '.doc'"),
    ],
)
def test_files_without_prompts_are_named(tmp_path, name, content, where, what):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert error.value.where.endswith(where)
    assert what in error.value.what
    assert error.value.fix
