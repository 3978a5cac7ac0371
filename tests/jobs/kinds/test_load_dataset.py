import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pyarrow import fs
from s3 import BUCKET, s3_server
from sklearn.datasets import load_digits

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile, check_labels
from slimctl.jobs.base.fingerprint import content_of_files
from slimctl.jobs.kinds import load_dataset
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.spec import ImageShape


@pytest.fixture
def folder(tmp_path):
    """Three colour images of two classes, and their pixels in the order of the classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3), np.uint8)
    for image, name in zip(pixels, ("cat/a.png", "cat/b.png", "dog/a.png"), strict=True):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "images", pixels


def test_the_digits(run_job, store):
    data = run_job(LoadDataset(source="digits"))
    assert (data.image, data.count) == (ImageShape(channels=1, size=8, classes=10), 1797)
    assert data.flip_valid is False
    assert data.class_names == tuple("0123456789")
    images, labels = load_dataset_tensors(store, data)
    digits = load_digits()
    np.testing.assert_allclose(images[:, 0].numpy(), digits.images * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(labels.numpy(), digits.target)
    assert data.label_counts == tuple(np.bincount(digits.target))


def test_a_folder_of_classes(run_job, store, folder):
    path, pixels = folder
    data = run_job(LoadDataset(source=str(path)))
    assert (data.image, data.count) == (ImageShape(channels=3, size=5, classes=2), 3)
    assert (data.class_names, data.label_counts) == (("cat", "dog"), (2, 1))
    assert data.flip_valid is True
    images, labels = load_dataset_tensors(store, data)
    order = [0, 2, 1]  # the classes in turn
    assert torch.equal(images, torch.from_numpy(pixels[order]).permute(0, 3, 1, 2))
    assert labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("source", ["digits", "folder"])
@pytest.mark.parametrize("valid", [True, False])
def test_what_the_user_says_of_mirroring_holds(run_job, folder, source, valid):
    path = str(folder[0]) if source == "folder" else source
    spec = LoadDataset(source=path, flip_valid=valid, max_images=20)
    assert run_job(spec).flip_valid is valid
    assert spec.expect({}).flip_valid is valid


def test_without_labels(run_job, store, folder):
    data = run_job(LoadDataset(source=str(folder[0]), labels=False, channels=1, size=4))
    assert data.image == ImageShape(channels=1, size=4)
    assert (data.class_names, data.label_counts) == ((), ())
    assert load_dataset_tensors(store, data)[1] is None


@pytest.mark.parametrize(
    "fields",
    [{}, {"labels": False}, {"max_images": 7}, {"max_images": 9999}, {"size": 4}, {"channels": 3}],
)
def test_what_is_expected_of_the_digits_is_what_comes(run_job, fields):
    spec = LoadDataset(source="digits", **fields)
    data = run_job(spec)
    assert spec.expect({}) == Facts(data.image, data.count, data.flip_valid)


def test_little_is_known_of_files_before_they_are_read(folder):
    assert LoadDataset(source=str(folder[0])).expect({}) == Facts()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": "/none/such"}, "there is no such file or folder"),
        ({"source": "digit"}, "there is no such file"),
        ({"source": ""}, "is empty"),
        ({"source": "digits", "split": "train"}, "has no parts, but split is 'train'"),
    ],
)
def test_sources_that_are_not_there(refused, fields, words):
    error = refused(LoadDataset(**fields))
    assert error.field == "source"
    assert words in error.what
    assert error.fix


def test_a_small_source_is_read_before_anything_starts(folder, monkeypatch):
    path, _ = folder
    spec = LoadDataset(source=str(path))
    facts = spec.preflight()
    assert facts is not None
    assert (facts.count, facts.image) == (3, ImageShape(channels=3, size=5, classes=2))
    assert (facts.classes_seen, facts.flip_valid) == (2, True)
    (path / "dog" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 3 images cannot be used"):
        spec.preflight()
    monkeypatch.setattr(load_dataset, "PREFLIGHT_BYTES", 10)
    assert spec.preflight() is None  # too large to read twice
    assert LoadDataset(source="digits").preflight() is None


def test_the_names_of_classes_and_the_order_of_files_are_content(folder):
    path, _ = folder
    spec = LoadDataset(source=str(path))
    seen = {spec.fingerprint()["source"]}
    (path / "dog").rename(path / "fox")
    seen.add(spec.fingerprint()["source"])
    (path / "cat" / "a.png").rename(path / "cat" / "c.png")
    seen.add(spec.fingerprint()["source"])
    assert len(seen) == 3


def test_the_source_in_words_reaches_the_log(run_job, recorder, folder):
    run_job(LoadDataset(source=str(folder[0])))
    (said,) = recorder.said("log")
    assert said["message"].startswith("3 images of 5 x 5 x 3, 2 classes, from folder of 3 images")


def test_what_is_left_out_is_reported_and_kept(run_job, folder):
    path, _ = folder
    assert LoadDataset(source=str(path)).warnings({}) == []
    (path / "cat" / "notes.txt").touch()
    (path / "dog" / "gone.png").symlink_to("nowhere.png")
    spec = LoadDataset(source=str(path))
    (warning,) = spec.warnings({})
    assert "2 of 5 files left out" in warning.what
    assert "1 .txt" in warning.what
    assert "1 links to nothing" in warning.what
    assert warning.what in run_job(spec).source
    assert LoadDataset(source="/none/such").warnings({}) == []


def test_labels_beside_the_images_are_content(folder):
    path, _ = folder
    spec = LoadDataset(source=str(path))
    seen = {spec.fingerprint()["source"]}
    for labels in ("0", "1"):
        rows = f"file_name,label\ncat/a.png,0\ncat/b.png,1\ndog/a.png,{labels}\n"
        (path / "metadata.csv").write_text(rows)
        seen.add(spec.fingerprint()["source"])
    assert len(seen) == 3


def test_labels_under_another_name_are_offered(tmp_path):
    encoded = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(encoded, "PNG")
    columns = {"img": [encoded.getvalue()] * 2, "fine_label": [1, 0], "coarse_label": [0, 0]}
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    spec = LoadDataset(source=str(tmp_path))
    (warning,) = spec.warnings({})
    assert "no column `label`, but `fine_label`, `coarse_label`" in warning.what
    facts = spec.preflight()
    assert facts is not None
    with pytest.raises(FieldError) as error:
        check_labels(facts, True, "data")
    assert "`fine_label`, `coarse_label`" in error.value.what
    assert "set label: fine_label on 'data'" in error.value.fix
    named = spec.model_copy(update={"label": "fine_label"})
    assert named.warnings({}) == []
    assert named.preflight().image.classes == 2


def test_a_stated_shape_is_known_before_the_images_are_there(refused, attempt, tmp_path):
    stated = LoadDataset(source="none.npz", size=32, channels=3, classes=7)
    error = refused(stated)
    assert isinstance(error, MissingFile)
    assert error.facts.image == ImageShape(channels=3, size=32, classes=7)
    plain = refused(stated.model_copy(update={"labels": False}))
    assert plain.facts.image == ImageShape(channels=3, size=32)
    assert refused(stated.model_copy(update={"classes": None})).facts.image is None
    file = tmp_path / "images.npz"
    np.savez(file, images=np.zeros((6, 4, 4), np.uint8), labels=np.arange(6) % 3)
    outcome = attempt(LoadDataset(source=str(file), classes=7))
    assert outcome.failure == "UserError"
    assert "has 3 classes, classes is 7" in outcome.what
    assert attempt(LoadDataset(source=str(file), classes=3)).failure is None


@pytest.fixture
def shards(tmp_path):
    """shards(first, count, broken=None) writes tar shards of two samples each; gives the pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (10, 5, 5, 3), np.uint8)

    def write(count, broken=None):
        for shard in range(count):
            with tarfile.open(tmp_path / f"{shard:03d}.tar", "w") as file:
                for i in (2 * shard, 2 * shard + 1):
                    buffer = io.BytesIO()
                    Image.fromarray(pixels[i]).save(buffer, "PNG")
                    data = b"broken" if i == broken else buffer.getvalue()
                    for ending, text in (("png", data), ("cls", str(i % 2).encode())):
                        info = tarfile.TarInfo(f"{i:06d}.{ending}")
                        info.size = len(text)
                        file.addfile(info, io.BytesIO(text))
        return pixels[: 2 * count]

    return write


def test_shards_of_a_webdataset(run_job, store, shards, tmp_path):
    pixels = shards(3)
    spec = LoadDataset(source=str(tmp_path / "{000..002}.tar"))
    data = run_job(spec)
    assert (data.image, data.label_counts) == (ImageShape(channels=3, size=5, classes=2), (3, 3))
    images, labels = load_dataset_tensors(store, data)
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert labels.tolist() == [0, 1] * 3
    assert spec.preflight().count == 6


def test_broken_images_are_left_out_where_asked(attempt, run_job, shards, tmp_path):
    shards(3, broken=3)
    failed = attempt(LoadDataset(source=str(tmp_path)))
    assert "1 of 6 images cannot be used: 001.tar: 000003 (not an image" in failed.what
    data = run_job(LoadDataset(source=str(tmp_path), broken="skip"))
    assert (data.count, data.label_counts) == (5, (3, 2))


def test_shards_of_an_object_store(run_job, store, shards, tmp_path, monkeypatch):
    pixels = shards(2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server():
        system, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}")
        for name in ("000.tar", "001.tar"):
            with system.open_output_stream(f"{BUCKET}/set/{name}") as file:
                file.write((tmp_path / name).read_bytes())
        spec = LoadDataset(source=f"s3://{BUCKET}/set/{{000..001}}.tar")
        data = run_job(spec)
        here = {"source": content_of_files(sorted(tmp_path.glob("*.tar")), tmp_path)}
        assert spec.fingerprint() == here
        with pytest.raises(FieldError, match=r"1 of 3 files are not there, the first .*002.tar"):
            LoadDataset(source=f"s3://{BUCKET}/set/{{000..002}}.tar").expect({})
        images, _ = load_dataset_tensors(store, data)
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
