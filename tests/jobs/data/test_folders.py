import os

import pytest
from PIL import Image

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.folders import SUFFIXES, find_images, in_words
from slimctl.jobs.data.pixels import FORMATS


@pytest.fixture
def tree(tmp_path):
    """tree("cat/a.png", ...) makes empty files; nothing here opens them."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch() if path.suffix else path.mkdir(exist_ok=True)
        return tmp_path

    return make


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found.files]


def test_flat_folder_is_unlabelled_and_sorted(tree):
    root = tree("b.png", "a.JPG", "c.webp", "d.bmp", "e.gif", "f.jpeg")
    found = find_images(root)
    assert names(found, root) == ["a.JPG", "b.png", "c.webp", "d.bmp", "e.gif", "f.jpeg"]
    assert (found.labels, found.class_names, dict(found.left_out)) == (None, (), {})


def test_classes_are_sorted_and_interleaved(tree):
    root = tree("dog/z.png", "dog/y.png", "ant/2.png", "ant/1.png", "ant/3.png", "cat/q.png")
    found = find_images(root)
    assert found.class_names == ("ant", "cat", "dog")
    assert names(found, root) == [
        "ant/1.png",
        "cat/q.png",
        "dog/y.png",
        "ant/2.png",
        "dog/z.png",
        "ant/3.png",
    ]
    assert found.labels == (0, 1, 2, 0, 2, 0)


def test_hidden_files_do_not_exist_and_others_are_counted(tree):
    root = tree("ant/1.png", "ant/.x.png", "ant/notes.txt", "README.md", ".git/a.png", "__MACOSX/a")
    found = find_images(root)
    assert names(found, root) == ["ant/1.png"]
    assert found.left_out == {".txt": 1, ".md": 1}


def test_one_class_is_enough(tree):
    assert find_images(tree("ant/1.png")).class_names == ("ant",)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images, nothing") as error:
        find_images(tmp_path)
    assert error.value.where == str(tmp_path)


def test_a_folder_of_other_files_says_which(tree):
    with pytest.raises(UserError, match=r"only 2 \.tga, 1 \.txt") as error:
        find_images(tree("a.tga", "b.tga", "c.txt"))
    assert ".png" in error.value.fix


def test_empty_classes_are_named(tree):
    root = tree("ant/1.png", "bee/notes.txt", "cat")
    with pytest.raises(UserError, match="2 of 3 class folders hold no images: bee, cat"):
        find_images(root)


def test_images_beside_folders_are_ambiguous(tree):
    with pytest.raises(UserError, match="1 images beside 1 folders"):
        find_images(tree("ant/1.png", "x.png"))


def test_folders_of_folders_are_answered_with_a_split(tree):
    with pytest.raises(UserError, match="hold folders, not images: day, night") as error:
        find_images(tree("day/ant/1.png", "night/ant/1.png"))
    assert "split: day" in error.value.fix


def test_parts_are_no_classes(tree):
    root = tree("test/3.png", "Train/1.png", "Train/2.png", "README.md", "docs/a.txt")
    found = find_images(root)
    assert names(found, root) == ["Train/1.png", "Train/2.png", "test/3.png"]
    assert found.labels is None
    assert found.left_out == {".md": 1, ".txt": 1}


def test_parts_share_their_classes(tree):
    root = tree("val/bee/1.png", "train/ant/1.png", "train/cat/2.png", "train/bee/3.png")
    found = find_images(root)
    assert found.class_names == ("ant", "bee", "cat")
    assert dict(zip(names(found, root), found.labels, strict=True)) == {
        "train/ant/1.png": 0,
        "train/bee/3.png": 1,
        "train/cat/2.png": 2,
        "val/bee/1.png": 1,
    }


def test_a_train_among_cars_is_a_class(tree):
    assert find_images(tree("train/1.png", "car/1.png")).class_names == ("car", "train")


def test_parts_that_are_labelled_differently_are_refused(tree):
    with pytest.raises(UserError, match=r"\(train: 1 classes, test: no labels\)") as error:
        find_images(tree("train/ant/1.png", "test/1.png"))
    assert error.value.fix.endswith("split: train")


@pytest.mark.parametrize(
    "files",
    [
        ("00000/00000.png", "00000/00001.png", "01000/01000.png", "02000/02000.png"),
        ("00000/img00000000.png", "00001/img00001000.png"),
        ("00000/a.png",),
    ],
)
def test_numbered_folders_are_no_classes(tree, files):
    root = tree(*files)
    found = find_images(root)
    assert (names(found, root), found.labels) == (list(files), None)
    (remark,) = found.remarks
    assert "numbered folder" in remark.what
    assert "00000" in remark.what


@pytest.mark.parametrize(
    "files",
    [
        ("0/3.png", "1/1.png"),  # digits
        ("00000/00000_00000.ppm", "00001/00000_00000.ppm"),  # GTSRB
        ("00000/1.png", "other/2.png"),
    ],
)
def test_other_numbers_are_classes(tree, files):
    assert find_images(tree(*files)).class_names == tuple(name.split("/")[0] for name in files)


def test_links_to_nothing_and_deeper_folders_are_counted(tree):
    root = tree("ant/1.png", "ant/more/2.png", "ant/more/3.png", "ant/x.tga")
    (root / "ant" / "gone.png").symlink_to("nowhere.png")
    (root / "ant" / "2.png").symlink_to("1.png")
    found = find_images(root)
    assert names(found, root) == ["ant/1.png", "ant/2.png"]
    assert found.left_out == {"links to nothing": 1, "in deeper folders": 2, ".tga": 1}
    assert in_words(found.left_out).startswith("2 in deeper folders, 1 ")


def test_a_folder_that_is_linked_into_itself_ends(tree):
    root = tree("00000/1.png")
    (root / "00000" / "again").symlink_to(root / "00000", target_is_directory=True)
    assert names(find_images(root), root) == ["00000/1.png"]


def test_every_ending_is_one_that_pillow_opens():
    Image.init()
    known = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    aliases = {".jif", ".mpo"}  # JPEG too
    assert SUFFIXES - aliases == known - {".dib", ".pfm"}  # without a signature; floats


def test_names_that_are_not_utf_8_are_shown_as_bytes(tmp_path):
    for name in (b"caf\xe9", b"bar"):
        (tmp_path / os.fsdecode(name)).mkdir()
        (tmp_path / os.fsdecode(name) / "1.png").touch()
    assert find_images(tmp_path).class_names == ("bar", "caf\\xe9")
    (tmp_path / os.fsdecode(b"bar") / "1.png").unlink()
    with pytest.raises(UserError, match="1 of 2 class folders"):
        find_images(tmp_path)
