import pytest

from jobs.base.errors import UserError
from jobs.data.folders import find_images


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
    assert (found.labels, found.class_names, found.ignored) == (None, (), 0)


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
    assert found.ignored == 2


def test_one_class_is_enough(tree):
    assert find_images(tree("ant/1.png")).class_names == ("ant",)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no images, nothing") as error:
        find_images(tmp_path)
    assert error.value.where == str(tmp_path)


def test_a_folder_of_other_files_says_which(tree):
    with pytest.raises(UserError, match=r"only 2 \.tif, 1 \.txt") as error:
        find_images(tree("a.tif", "b.tif", "c.txt"))
    assert ".png" in error.value.fix


def test_empty_classes_are_named(tree):
    root = tree("ant/1.png", "bee/notes.txt", "cat")
    with pytest.raises(UserError, match="2 of 3 class folders hold no images: bee, cat"):
        find_images(root)


def test_images_beside_folders_are_ambiguous(tree):
    with pytest.raises(UserError, match="1 images beside 1 folders"):
        find_images(tree("ant/1.png", "x.png"))


def test_parts_are_recognised(tree):
    with pytest.raises(UserError, match="hold folders, not images: test, train") as error:
        find_images(tree("train/ant/1.png", "test/ant/1.png"))
    assert "split: test" in error.value.fix
