import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.read import read_images
from slimctl.jobs.data.source import expanded


@pytest.fixture
def write_tar(tmp_path):
    """write_tar(name, members, form) with members (name, bytes) or whole TarInfos."""

    def write(name, members, form=tarfile.PAX_FORMAT):
        path = tmp_path / name
        with tarfile.open(path, "w", format=form) as file:
            for member, data in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def samples(encode, colours):
    """samples(first, last, label) -> members of a shard, and the pixels of the images."""
    pixels = colours(10)

    def make(first, last, label=lambda i: (".cls", str(i % 2).encode())):
        members = []
        for i in range(first, last):
            members.append((f"part/{i:06d}.png", encode(pixels[i])))
            ending, text = label(i)
            members.append((f"part/{i:06d}{ending}", text))
        return members, pixels[first:last]

    return make


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_are_read_in_their_order(tmp_path, write_tar, samples, form):
    write_tar("train-08.tar", samples(0, 3)[0], form)
    write_tar("train-09.tar", samples(3, 5)[0], form)
    write_tar("train-10.tar", samples(5, 6)[0], form)
    pixels = samples(0, 6)[1]
    for source in ("train-{08..10}.tar", "*.tar", ""):
        loaded = read_images(str(tmp_path / source))
        np.testing.assert_array_equal(loaded.images, pixels)
        assert loaded.labels.tolist() == [0, 1, 0, 1, 0, 1]
    first = read_images(str(tmp_path / "train-08.tar"), max_images=2)
    np.testing.assert_array_equal(first.images, pixels[:2])
    with pytest.raises(UserError, match=r"1 of 4 files are not there: .*train-11.tar"):
        read_images(str(tmp_path / "train-{08..11}.tar"))


def test_long_names_of_both_kinds(write_tar, encode, colours):
    name = "a" * 90 + "/" + "b" * 180
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = write_tar("long.tar", [(f"{name}.png", encode(colours(1)[0]))], form)
        np.testing.assert_array_equal(read_images(str(path)).images, colours(1))


@pytest.mark.parametrize(
    ("label", "asked", "expected", "names"),
    [
        (lambda i: (".json", json.dumps({"label": i % 2}).encode()), None, [0, 1, 0], ()),
        (lambda i: (".json", json.dumps({"animal": "cd"[i % 2]}).encode()), "animal", [0, 1, 0],
         ("c", "d")),
        (lambda i: (".txt", b"a caption"), None, None, ()),
        (lambda i: (".cls", b"dog" if i else b"cat\n"), None, [0, 1, 1], ("cat", "dog")),
    ],
)  # fmt: skip
def test_labels_of_samples(write_tar, samples, label, asked, expected, names):
    path = write_tar("a.tar", samples(0, 3, label)[0])
    loaded = read_images(str(path), label=asked)
    assert (loaded.labels is None) == (expected is None)
    assert loaded.labels is None or loaded.labels.tolist() == expected
    assert loaded.class_names == names
    assert read_images(str(path), labels=False).labels is None


def entry(name, kind, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("/etc/a.png", b"")], "'/etc/a.png', which would lie outside"),
        ([("../../a.png", b"")], "'../../a.png', which would lie outside"),
        ([entry("a.png", tarfile.SYMTYPE)], "a link, 'a.png'"),
        ([entry("a.png", tarfile.LNKTYPE)], "a link, 'a.png'"),
        ([entry("a.png", tarfile.CHRTYPE)], "a device, 'a.png'"),
        ([("a.png", b""), ("a.jpg", b"")], "several images in sample 'a': jpg, png"),
        ([("a.png", b""), ("b.png", b""), ("a.cls", b"1")], "the sample 'a' twice"),
        ([("a.cls", b"1")], "holds no images"),
        ([("a.png", b""), ("a.cls", b"\xff\xfe")], "a: has a label that is no text"),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], "a: has JSON that is nested too deeply"),
        ([("a.png", b""), ("a.cls", b"1" * 10_000)], "10,000 bytes where a label is meant"),
        (
            [("a.png", b"x"), ("a.cls", b"0"), ("b.png", b"y")],
            "1 of 2 images have no label: x.tar: b",
        ),
        ([("a.png", b"no image"), ("a.cls", b"0")], "x.tar: a (not an image"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_shard_is_named(write_tar, members, words):
    path = write_tar("x.tar", members)
    with pytest.raises(UserError) as error:
        read_images(str(path))
    assert words in str(error.value)


@pytest.mark.parametrize("cut", [100, 700, 1400])
def test_a_shard_that_is_cut_off(write_tar, samples, cut):
    path = write_tar("x.tar", samples(0, 2)[0])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"x\.tar: .*ends within"):
        read_images(str(path))


def test_what_is_broken_is_left_out(write_tar, samples):
    members, pixels = samples(0, 4)
    members[2] = (members[2][0], b"broken")
    path = write_tar("x.tar", members)
    loaded = read_images(str(path), broken="skip")
    np.testing.assert_array_equal(loaded.images, pixels[[0, 2, 3]])
    assert loaded.labels.tolist() == [0, 0, 1]
    assert "1 of 4 images cannot be used: x.tar: part/000001" in loaded.skipped


@pytest.fixture
def write_zip(tmp_path):
    def write(members, method=zipfile.ZIP_STORED):
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            for name, data in members:
                file.writestr(name, data)
        return path

    return write


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_edm_archives(write_zip, encode, colours, method):
    pixels = colours(3)
    names = [f"00000/img{i:08d}.png" for i in range(3)]
    members = [(name, encode(image)) for name, image in zip(names, pixels, strict=True)]
    labels = json.dumps({"labels": [[name, 2 - i] for i, name in enumerate(names)]})
    path = write_zip([("dataset.json", labels), *reversed(members)], method)
    loaded = read_images(str(path))
    np.testing.assert_array_equal(loaded.images, pixels)
    assert loaded.labels.tolist() == [2, 1, 0]
    none = write_zip([("dataset.json", '{"labels": null}'), *members])
    assert read_images(str(none)).labels is None


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("../a.png", b"")], "'../a.png', which would lie outside"),
        ([("/a.png", b"")], "'/a.png', which would lie outside"),
        ([("a.txt", b"")], "holds no images"),
        ([("a.png", b""), ("dataset.json", "[" * 100_000)], "has a dataset.json without `labels`"),
        ([("a.png", b""), ("dataset.json", '{"labels": [["a.png", {}]]}')], "are no numbers"),
        ([("a.png", b""), ("dataset.json", '{"labels": 3}')], "has a dataset.json without"),
        ([("a.png", b"x")], "set.zip: a.png (not an image"),
    ],
)
def test_what_is_wrong_with_an_archive_is_named(write_zip, members, words):
    with pytest.raises(UserError) as error:
        read_images(str(write_zip(members)))
    assert words in str(error.value)


def test_a_damaged_member_is_named(write_zip, encode, colours):
    data = encode(colours(1)[0])
    path = write_zip([("a.png", data)])
    content = path.read_bytes()
    path.write_bytes(content.replace(data[-30:], bytes(30), 1))
    with pytest.raises(UserError, match=r"a\.png \(other bytes than its checksum says\)"):
        read_images(str(path))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="is no file of images"):
        read_images(str(path))


def test_a_member_that_unpacks_to_more_than_any_image(write_zip):
    path = write_zip([("a.png", bytes(300 * 2**20))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="314,572,800 bytes, more than an image has"):
        read_images(str(path))


def test_folders_of_hugging_face(tmp_path, encode, colours):
    pixels = colours(5)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    text = json.dumps({"info": {"features": {"label": feature}}})
    fields = [pa.field("image", kind), pa.field("label", pa.int64())]
    schema = pa.schema(fields, {"huggingface": text})
    folder = tmp_path / "train"
    folder.mkdir()
    files = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, rows in zip(files, (range(3), range(3, 5)), strict=True):
        images = [{"bytes": encode(pixels[i]), "path": None} for i in rows]
        columns = {"image": images, "label": [i % 2 for i in rows]}
        table = pa.table(columns, schema=schema)
        with pa.ipc.new_stream(str(folder / name), schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": f} for f in files]})
    )
    (folder / "dataset_info.json").write_text("{}")
    for source, split in ((tmp_path, "train"), (folder, None)):
        loaded = read_images(str(source), split=split)
        np.testing.assert_array_equal(loaded.images, pixels)
        assert (loaded.labels.tolist(), loaded.class_names) == ([0, 1, 0, 1, 0], ("cat", "dog"))
    cut = folder / files[1]
    cut.write_bytes(cut.read_bytes()[:300])
    with pytest.raises(UserError, match="is no readable Arrow file"):
        read_images(str(folder))
    cut.unlink()
    with pytest.raises(UserError, match="names files that are not there"):
        read_images(str(folder))


def test_numbers_in_braces():
    assert expanded("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]
    assert expanded("{0..1}/{1..2}") == ["0/1", "0/2", "1/1", "1/2"]
    assert expanded("a{8..10}") == ["a8", "a9", "a10"]
    for bad in ("a{3..2}", "a{0..99999999}", "{0..9999}{0..9999}"):
        with pytest.raises(UserError, match="stands for"):
            expanded(bad)
