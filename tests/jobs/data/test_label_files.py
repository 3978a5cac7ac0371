"""Labels that a file beside the images says."""

import json

import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.folders import find_images
from slimctl.jobs.data.read import read_images
from slimctl.jobs.data.source import find_source

PLACES = ("00000/a.png", "00000/b.png", "00001/c.png")


@pytest.fixture
def folder(tmp_path, colours, encode):
    """folder(name, text) writes three images in two folders, and a file beside them."""

    def make(name, text, places=PLACES):
        for image, place in zip(colours(len(places)), places, strict=True):
            path = tmp_path / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))
        (tmp_path / name).write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize("form", [list, dict])
def test_labels_as_stylegan_and_edm_write_them(folder, form):
    backslash = "00000\\b.png"
    pairs = [("00001/c.png", 1), (backslash, 0), ("00000/a.png", 2), ("gone.png", 3)]
    root = folder("dataset.json", json.dumps({"labels": form(pairs)}))
    loaded = read_images(str(root))
    assert loaded.labels.tolist() == [2, 0, 1]
    assert (loaded.class_count, loaded.class_names) == (3, ())
    assert find_source(str(root)).words.endswith("3 classes (labels of dataset.json)")
    assert root / "dataset.json" in find_source(str(root)).content


def test_edm_says_that_there_are_no_labels(folder):
    root = folder("dataset.json", json.dumps({"labels": None}), ("cat/a.png", "dog/b.png"))
    found = find_images(root)
    assert (found.labels, found.remarks) == (None, ())


@pytest.mark.parametrize(
    "content", [{"name": "animals"}, {"labels": {"0": "background"}}, {"labels": []}]
)
def test_another_file_of_that_name_says_nothing(folder, content):
    root = folder("dataset.json", json.dumps(content), ("cat/a.png", "dog/b.png"))
    found = find_images(root)
    assert found.class_names == ("cat", "dog")
    assert found.left_out == {".json": 1}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,label\na.png,1\nb.png,0\nc.png,1\n"),
        (
            "metadata.jsonl",
            (
                '{"file_name": "a.png", "label": 1}\n{"file_name": "./b.png", "label": 0}\n\n'
                '{"label": 1, "file_name": "c.png"}\n'
            ),
        ),
    ],
)
def test_labels_as_hugging_face_writes_them(folder, name, text):
    root = folder(name, text, ("a.png", "b.png", "c.png"))
    assert read_images(str(root)).labels.tolist() == [1, 0, 1]
    assert read_images(str(root), labels=False).labels is None


def test_words_are_classes_in_their_order(folder):
    text = "file_name,animal,size\na.png,dog,1\nb.png,cat,2\nc.png,dog,3\n"
    root = folder("metadata.csv", text, ("a.png", "b.png", "c.png"))
    loaded = read_images(str(root), label="animal")
    assert (loaded.labels.tolist(), loaded.class_names) == ([1, 0, 1], ("cat", "dog"))
    (remark,) = find_images(root).remarks
    assert "no column `label`, but `animal`, `size`" in remark.what
    with pytest.raises(UserError, match="no column `colour`; it has `animal`, `size`"):
        find_images(root, label="colour")


def test_a_file_above_a_part_counts(folder):
    text = "file_name,label\ntrain/a.png,0\ntrain/b.png,1\ntest/c.png,1\n"
    root = folder("metadata.csv", text, ("train/a.png", "train/b.png", "test/c.png"))
    assert read_images(str(root)).labels.tolist() == [0, 1, 1]
    assert read_images(str(root), split="train").labels.tolist() == [0, 1]
    assert find_images(root).left_out == {}


def test_images_that_a_file_forgets_are_named(folder):
    root = folder("metadata.csv", "file_name,label\na.png,0\n", ("a.png", "b.png", "c.png"))
    with pytest.raises(UserError, match=r"2 of 3 images have no label: b\.png, c\.png") as error:
        read_images(str(root))
    assert error.value.where == str(root / "metadata.csv")
    assert read_images(str(root), labels=False).labels is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dataset.json", '{"labels": [["00000/a.png", 1]', "cannot be read"),
        ("dataset.json", '{"labels": [1, 2]}', "no pairs of name and label"),
        ("dataset.json", '{"labels": [["00000/a.png", [0, 1]]]}', "lists or mappings"),
        ("metadata.csv", "name,label\na.png,1\n", "no column `file_name`; it has name, label"),
        ("metadata.jsonl", "[1]\n", "a line is no mapping"),
        ("metadata.jsonl", "{\n", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used_are_refused(folder, name, text, words):
    with pytest.raises(UserError, match=words) as error:
        find_images(folder(name, text))
    assert error.value.where.endswith(name)
    assert error.value.fix
