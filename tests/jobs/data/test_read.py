import subprocess
import sys

import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.read import read_images
from slimctl.jobs.data.source import find_source


@pytest.fixture
def folder(tmp_path, colours, encode):
    """Two classes of two and one colour images, and the images by file name."""
    images = {}
    for image, name in zip(colours(3), ["cat/a.png", "cat/b.png", "dog/a.png"], strict=True):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(image))
        images[name] = image
    return tmp_path, images


def test_a_folder_of_classes(folder):
    path, images = folder
    loaded = read_images(str(path))
    order = ["cat/a.png", "dog/a.png", "cat/b.png"]
    np.testing.assert_array_equal(loaded.images, [images[name] for name in order])
    assert loaded.labels.tolist() == [0, 1, 0]
    assert loaded.class_names == ("cat", "dog")
    assert loaded.flip_valid is None
    assert loaded.source == find_source(str(path)).words == "folder of 3 images, 2 classes"
    assert [file.relative_to(path).as_posix() for file in find_source(str(path)).content] == order
    assert find_source(str(path)).root == path


def test_a_folder_without_labels(folder):
    path, images = folder
    loaded = read_images(str(path / "cat"))
    np.testing.assert_array_equal(loaded.images, [images["cat/a.png"], images["cat/b.png"]])
    assert (loaded.labels, loaded.class_names, loaded.class_count) == (None, (), 0)
    assert loaded.source == "folder of 2 images, unlabelled"
    ignored = read_images(str(path), labels=False)
    assert (ignored.labels, ignored.class_names) == (None, ())


def test_the_first_images_of_a_folder_are_of_every_class(folder):
    path, images = folder
    loaded = read_images(str(path), max_images=2)
    np.testing.assert_array_equal(loaded.images, [images["cat/a.png"], images["dog/a.png"]])
    assert loaded.label_counts == (1, 1)
    with pytest.raises(UserError, match=r"no image in the first 1 images: 1 \(dog\)"):
        read_images(str(path), max_images=1)


def test_damaged_files_are_named_from_the_source_on(folder):
    path, _ = folder
    (path / "dog" / "b.png").write_bytes(b"")
    (path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"1 of 4 images cannot be used: dog/b\.png") as error:
        read_images(str(path))
    assert error.value.where == str(path)
    assert "(1 of 5 files left out: 1 .txt)" in find_source(str(path)).words


def test_reading_twice_gives_the_same_bytes(folder):
    path, _ = folder
    first, second = (read_images(str(path), size=4) for _ in range(2))
    assert first.images.tobytes() == second.images.tobytes()


def test_digits_have_no_files():
    assert find_source("digits").content == ()
    assert find_source("digits").words == "scikit-learn's digits"


def test_importing_the_readers_imports_neither_torch_nor_scikit_learn():
    code = "import sys, jobs.data.read; print({'torch', 'sklearn', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
