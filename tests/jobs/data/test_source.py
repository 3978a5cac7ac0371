from pathlib import Path

import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.source import TRAIN_BATCHES, find_source


@pytest.fixture
def tree(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names(found):
    return [path.relative_to(found.root).as_posix() for path in found.files]


def test_digits_is_a_word_and_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "a.png").touch()
    assert find_source("digits").reader == "digits"
    assert find_source("digits").files == ()
    assert find_source("./digits").reader == "images"


@pytest.mark.parametrize(
    ("files", "source", "reader"),
    [
        (["a.parquet"], "a.parquet", "parquet"),
        (["a.parquet"], "", "parquet"),
        (["deep/er/a.parquet", "README.md"], "", "parquet"),
        (["a.parquet", "b.parquet"], "*.parquet", "parquet"),
        (["x/a.parquet", "b.parquet"], "**/*.parquet", "parquet"),
        (["a.npz"], "a.npz", "array"),
        (["a.npy"], "a.npy", "array"),
        (["a.png"], "", "images"),
        (["cat/a.png"], "", "images"),
        ([*TRAIN_BATCHES, "test_batch"], "", "batches"),
        ([f"cifar-10-batches-py/{name}" for name in (*TRAIN_BATCHES, "test_batch")], "", "batches"),
    ],
)
def test_each_source_has_its_reader(tree, files, source, reader):
    root = tree(*files)
    found = find_source(str(root / source))
    assert found.reader == reader
    images = [name for name in files if name != "README.md"]
    assert len(found.files) == len(images)
    assert all(path.is_relative_to(found.root) and path.is_file() for path in found.files)


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, ["data/train-1.parquet", "test.parquet", "train-0.parquet", "validation/0.parquet"]),
        ("train", ["data/train-1.parquet", "train-0.parquet"]),
        ("test", ["test.parquet"]),
        ("validation", ["validation/0.parquet"]),
    ],
)
def test_split_chooses_among_parquet_files(tree, split, expected):
    root = tree(
        "train-0.parquet",
        "data/train-1.parquet",
        "test.parquet",
        "validation/0.parquet",
        ".a.parquet",
    )
    assert names(find_source(str(root), split)) == expected


def test_a_split_without_files_names_the_files(tree):
    with pytest.raises(UserError, match=r"split 'trian': test.parquet, train.parquet"):
        find_source(str(tree("train.parquet", "test.parquet")), "trian")


@pytest.mark.parametrize("image", ["a.png", "cat/a.png"])
def test_parquet_files_beside_images_are_ambiguous(tree, image):
    root = tree("train.parquet", image)
    with pytest.raises(UserError, match="holds Parquet files beside images") as error:
        find_source(str(root))
    pattern = str(root / "**" / "*.parquet")
    assert pattern in error.value.fix
    assert names(find_source(pattern)) == ["train.parquet"]


def test_split_chooses_a_subfolder_of_images(tree):
    root = tree("train/cat/a.png", "train/dog/b.png", "test/cat/c.png")
    found = find_source(str(root), "train")
    assert names(found) == ["train/cat/a.png", "train/dog/b.png"]
    assert (found.class_names, found.labels) == (("cat", "dog"), (0, 1))
    with pytest.raises(
        UserError, match="no folder for split 'trian'; it holds test, train"
    ) as error:
        find_source(str(root), "trian")
    assert error.value.fix == "did you mean train?"


def test_split_chooses_batches(tree):
    root = tree(*TRAIN_BATCHES, "test_batch", "batches.meta")
    assert names(find_source(str(root), "train")) == [*TRAIN_BATCHES, "batches.meta"]
    assert names(find_source(str(root), "test")) == ["test_batch", "batches.meta"]
    assert len(find_source(str(root)).files) == 7
    with pytest.raises(UserError, match="no split 'val'"):
        find_source(str(root), "val")


def test_missing_batches_are_named(tree):
    root = tree("data_batch_1", "data_batch_3", "data_batch_4", "data_batch_5")
    with pytest.raises(UserError, match=r"without data_batch_2\n"):
        find_source(str(root), "train")
    with pytest.raises(UserError, match="without data_batch_2, test_batch"):
        find_source(str(root))


@pytest.mark.parametrize("source", ["digits", "a.npz"])
def test_sources_without_parts_refuse_a_split(tree, source, monkeypatch):
    monkeypatch.chdir(tree("a.npz"))
    with pytest.raises(UserError, match="has no parts, but split is 'test'"):
        find_source(source, "test")


def test_a_wrong_path_is_answered_with_the_nearest_name(tree, monkeypatch):
    root = tree("images/cat/a.png", "other/b.png")
    with pytest.raises(UserError) as error:
        find_source(str(root / "imagse" / "cat"))
    assert error.value.where == str(root / "imagse" / "cat")
    assert error.value.fix == f"did you mean {root / 'images'}?"
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match="did you mean images"):
        find_source("image")
    with pytest.raises(UserError, match="did you mean digits"):
        find_source("digit")


def test_a_wrong_path_without_near_name_shows_what_is_there(tree):
    with pytest.raises(UserError, match=r"holds apple\.npz, pear\.npz"):
        find_source(str(tree("apple.npz", "pear.npz") / "zzz"))


def test_a_path_through_a_file(tree):
    with pytest.raises(UserError, match=r"a\.npz is a file, not a folder"):
        find_source(str(tree("a.npz") / "a.npz" / "b.npz"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://bucket/images", "is a URI"),
        ("", "is empty"),
        ("a.zip", "is no file of images"),
        ("*.nothing", "no file has such a name"),
        ("*.zip", "Parquet files only, not a.zip"),
    ],
)
def test_what_is_no_source_is_refused(tree, monkeypatch, source, words):
    monkeypatch.chdir(tree("a.zip"))
    with pytest.raises(UserError) as error:
        find_source(source)
    assert words in error.value.what
    assert error.value.fix


def test_home_is_understood(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree("a.npz")))
    assert find_source("~/a.npz").root == Path.home() / "a.npz"


def test_a_folder_that_may_not_be_read(tree, monkeypatch):
    def refuse(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(path)))

    monkeypatch.setattr("os.walk", refuse)
    with pytest.raises(UserError, match="may not be read"):
        find_source(str(tree("a.png")))


@pytest.mark.parametrize(
    ("source", "words"),
    [("$HOME/images", "variables of a shell"), ("C:\\data\\images", "a path of Windows")],
)
def test_paths_of_other_places_are_named(source, words):
    with pytest.raises(UserError) as error:
        find_source(source)
    assert words in error.value.fix
