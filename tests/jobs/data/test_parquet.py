import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import BATCH
from slimctl.jobs.data.read import read_images


def refusal(source, **rules):
    with pytest.raises(UserError) as error:
        read_images(str(source), **rules)
    return error.value


def test_images_and_labels_in_order(tmp_path, colours, write_parquet):
    images = colours(BATCH + 5)
    labels = np.arange(len(images)) % 3
    path = write_parquet(tmp_path / "a.parquet", images, labels)
    loaded = read_images(str(path))
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.labels, labels)
    assert (loaded.class_names, loaded.flip_valid, loaded.class_count) == ((), None, 3)
    assert loaded.source == "1 Parquet file"


def test_several_files_follow_each_other_by_name(tmp_path, colours, write_parquet):
    images = colours(6)
    write_parquet(tmp_path / "b.parquet", images[4:], [0, 1])
    write_parquet(tmp_path / "a.parquet", images[:4], [1, 1, 0, 0])
    for source in (tmp_path, tmp_path / "*.parquet"):
        loaded = read_images(str(source))
        np.testing.assert_array_equal(loaded.images, images)
        assert loaded.labels.tolist() == [1, 1, 0, 0, 0, 1]
        assert loaded.source == "2 Parquet files"


@pytest.mark.parametrize("count", [1, 4, 5, 6, 100])
def test_max_images_takes_the_first(tmp_path, colours, write_parquet, count):
    images = colours(6)
    write_parquet(tmp_path / "a.parquet", images[:4], [0, 1, 0, 1])
    write_parquet(tmp_path / "b.parquet", images[4:], [0, 1])
    loaded = read_images(str(tmp_path), max_images=count)
    np.testing.assert_array_equal(loaded.images, images[:count])
    assert loaded.labels.tolist() == [0, 1, 0, 1, 0, 1][:count]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_plain_bytes_without_labels(tmp_path, colours, encode, kind):
    images = colours(3)
    column = pa.array([encode(image) for image in images], kind)
    pq.write_table(pa.table({"img": column}), tmp_path / "a.parquet")
    loaded = read_images(str(tmp_path))
    np.testing.assert_array_equal(loaded.images, images)
    assert loaded.labels is None
    assert loaded.class_count == 0


def test_class_names_of_hugging_face(tmp_path, colours, write_parquet):
    write_parquet(tmp_path / "a.parquet", colours(2), [1, 0], names=["cat", "dog"])
    assert read_images(str(tmp_path)).class_names == ("cat", "dog")
    assert read_images(str(tmp_path), labels=False).class_names == ()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"info": null}', '{"info": {"features": {"label": 3}}}']
)
def test_odd_metadata_names_no_classes(tmp_path, colours, write_parquet, text):
    path = write_parquet(tmp_path / "a.parquet", colours(2), [1, 0])
    table = pq.read_table(path).replace_schema_metadata({"huggingface": text})
    pq.write_table(table, path)
    assert read_images(str(path)).class_names == ()


def test_integral_floats_are_labels(tmp_path, colours, write_parquet):
    write_parquet(tmp_path / "a.parquet", colours(2), [1.0, 0.0])
    assert read_images(str(tmp_path)).labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, None, 1], None, "1 of 3 labels are not among 0, 1, 2, ...: row 1: missing"),
        ([0, -1, 1], None, "row 1: -1"),
        ([0, 0.25, 1], None, "row 1: 0.25"),
        ([0, float("nan"), 1], None, "row 1: missing"),
        ([0, 1, 2], ["cat", "dog"], "1 of 3 labels are not among 0..1: row 2: 2"),
        ([0, 0, 2], None, "1 of 3 classes have no image in it: 1"),
        ([0, 0, 0], ["cat", "dog"], "1 of 2 classes have no image in it: 1 (dog)"),
        (["cat", "dog", "dog"], None, "column `label` holds string, not whole numbers"),
        ([True, False, True], None, "column `label` holds bool, not whole numbers"),
    ],
)
def test_bad_labels_are_refused_unless_left_out(
    tmp_path, colours, write_parquet, labels, names, words
):
    write_parquet(tmp_path / "a.parquet", colours(3), labels, names)
    assert words in refusal(tmp_path).what
    assert "labels: false" in refusal(tmp_path).fix
    assert read_images(str(tmp_path), labels=False).labels is None


def test_a_class_that_max_images_cuts_off(tmp_path, colours, write_parquet):
    write_parquet(tmp_path / "a.parquet", colours(3), [0, 0, 1], ["cat", "dog"])
    error = refusal(tmp_path, max_images=2)
    assert "1 of 2 classes have no image in the first 2 images: 1 (dog)" in error.what
    assert "raise max_images" in error.fix


def test_damaged_and_missing_images_are_named(tmp_path, colours, encode, write_parquet):
    good = encode(colours(1)[0])
    write_parquet(tmp_path / "a.parquet", [good, b"nonsense", good])
    write_parquet(tmp_path / "b.parquet", [good, None, good[:40]])
    what = refusal(tmp_path).what
    assert "3 of 6 images cannot be used: a.parquet row 1 (not an image" in what
    assert "b.parquet row 1" in what
    assert "b.parquet row 2" in what


def test_files_must_agree_on_labels(tmp_path, colours, write_parquet):
    write_parquet(tmp_path / "a.parquet", colours(2), [0, 1])
    write_parquet(tmp_path / "b.parquet", colours(2))
    assert "1 of 2 files have no column `label`: b.parquet" in refusal(tmp_path).what
    write_parquet(tmp_path / "b.parquet", colours(2), [0, 1], ["x", "y"])
    assert "b.parquet has other class names than a.parquet" in refusal(tmp_path).what


def test_a_file_of_something_else_shows_its_columns(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    assert "it has text: string, n: int64" in refusal(tmp_path).what
    pq.write_table(pa.table({"image": [[1, 2]]}), tmp_path / "a.parquet")
    assert "image: list" in refusal(tmp_path).what


def test_a_file_without_rows(tmp_path, write_parquet):
    write_parquet(tmp_path / "a.parquet", [])
    assert refusal(tmp_path).what == "holds no rows"


def test_damaged_files_are_named(tmp_path, colours, write_parquet):
    path = write_parquet(tmp_path / "a.parquet", colours(50), [0, 1] * 25)
    whole = path.read_bytes()
    path.write_bytes(b"nothing")
    assert "is no readable Parquet file" in refusal(path).what
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).where == str(path)
    path.write_bytes(whole[:4] + bytes(200) + whole[204:])
    assert refusal(path).where == str(path)


def test_the_real_cifar10(test_data):
    source = str(test_data / "cifar10-jpeg")
    loaded = read_images(source, split="test")
    assert loaded.images.shape == (10_000, 32, 32, 3)
    assert loaded.label_counts == (1000,) * 10
    rows = pq.read_table(test_data / "cifar10-jpeg" / "test.parquet").slice(4321, 1).to_pylist()
    from PIL import Image

    with Image.open(io.BytesIO(rows[0]["image"]["bytes"])) as image:
        np.testing.assert_array_equal(loaded.images[4321], np.asarray(image))
    assert loaded.labels[4321] == rows[0]["label"]
    grey = read_images(source, split="train", size=16, channels=1, max_images=300)
    assert grey.images.shape == (300, 16, 16, 1)


def test_the_user_names_the_column_of_the_labels(tmp_path, colours, encode):
    columns = {
        "img": [{"bytes": encode(image), "path": None} for image in colours(3)],
        "fine_label": [2, 0, 1],
        "coarse_label": [1, 0, 0],
        "width": [6, 6, 6],
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    unsaid = read_images(str(tmp_path))
    assert (unsaid.labels, unsaid.label_columns) == (None, ("fine_label", "coarse_label"))
    fine = read_images(str(tmp_path), label="fine_label")
    assert (fine.labels.tolist(), fine.label_columns) == ([2, 0, 1], ())
    with pytest.raises(UserError, match="no column `label`; it has `fine_label`, `coarse_label`"):
        read_images(str(tmp_path), label="label")
