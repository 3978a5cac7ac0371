"""A source in shards: the same images as in memory, whoever makes them and after any crash."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from slimctl.jobs.kinds import load_dataset
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.jobs.preparing import prepare
from slimctl.jobs.storage.tensors import image_batches, load_dataset_tensors, part_rows
from slimctl.models.spec import ImageShape

SIDE = 8


@pytest.fixture
def shards(tmp_path):
    """shards(broken=None, grey=False) writes three .tar of 7, 0 < n < 7 and 7 images."""

    def write(broken=None, grey=False):
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (17, 12, 10, 3), np.uint8)
        number = 0
        for shard, count in enumerate((7, 3, 7)):
            with tarfile.open(folder / f"{shard}.tar", "w") as file:
                for _ in range(count):
                    buffer = io.BytesIO()
                    image = Image.fromarray(pixels[number])
                    (image.convert("L") if grey else image).save(buffer, "PNG")
                    data = b"broken" if number == broken else buffer.getvalue()
                    for ending, text in (("png", data), ("json", label(number))):
                        info = tarfile.TarInfo(f"{number:06d}.{ending}")
                        info.size = len(text)
                        file.addfile(info, io.BytesIO(text))
                    number += 1
        return folder

    return write


def label(number):
    return json.dumps({"label": ["dog", "cat"][number % 2]}).encode()


@pytest.fixture
def small(monkeypatch):
    """Everything is prepared, in shards of five images."""
    monkeypatch.setattr(load_dataset, "WHOLE_BYTES", 0)
    monkeypatch.setattr(prepare, "SHARD_BYTES", 5 * SIDE * SIDE * 3)


@pytest.fixture
def both(run_job, store, monkeypatch):
    """both(spec) -> what is read into memory, and the handle of what is prepared."""

    def make(spec):
        whole = spec._read()
        return whole, run_job(spec)

    return make


@pytest.mark.parametrize("grey", [False, True])
def test_shards_hold_what_is_read_into_memory(both, store, shards, small, grey):
    whole, data = both(LoadDataset(source=str(shards(grey=grey)), size=SIDE))
    assert data.image == ImageShape(channels=1 if grey else 3, size=SIDE, classes=2)
    assert (data.count, data.shard_counts) == (17, (5, 5, 5, 2))
    assert (data.class_names, data.label_counts) == (("cat", "dog"), (8, 9))
    images, labels = load_dataset_tensors(store, data)
    assert torch.equal(images, torch.from_numpy(whole.images).permute(0, 3, 1, 2))
    assert labels.tolist() == whole.labels.tolist()
    assert torch.equal(torch.cat(list(image_batches(store, data, 4))), images)
    part = part_rows(store, data, (1,))
    assert torch.equal(part.images(torch.tensor([8, 0])), images[labels == 1][[8, 0]])


def test_an_attempt_goes_on_and_comes_to_the_same_bytes(
    attempt, run_job, store, shards, small, monkeypatch
):
    spec = LoadDataset(source=str(shards()), size=SIDE)
    first = run_job(spec)
    folder = store.blobs.root / "datasets" / first.id
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    store.blobs.delete(f"artifacts/{first.id}")
    store.blobs.delete(f"datasets/{first.id}/shard-000002.safetensors")
    store.work(first.id).delete("shards/000003.json")
    made = []
    make = prepare.make_shard

    def counted(preparation, layout, shard, threads):
        made.append(shard)
        return make(preparation, layout, shard, threads)

    monkeypatch.setattr(prepare, "make_shard", counted)
    again = run_job(spec)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert again.shards == first.shards
    assert made in ([2, 3], [0, 1, 2, 3])  # all, where the work folder went with the artifact


def test_broken_images_of_shards(attempt, run_job, store, shards, small):
    source = str(shards(broken=8))
    failed = attempt(LoadDataset(source=source, size=SIDE))
    assert "1 of 17 images cannot be used: 1.tar: 000008 (not an image" in failed.what
    data = run_job(LoadDataset(source=source, size=SIDE, broken="skip"))
    assert (data.count, data.shard_counts, data.label_counts) == (16, (5, 4, 5, 2), (8, 8))
    whole = LoadDataset(source=source, size=SIDE, broken="skip")._read()
    images, labels = load_dataset_tensors(store, data)
    assert torch.equal(images, torch.from_numpy(whole.images).permute(0, 3, 1, 2))
    assert labels.tolist() == whole.labels.tolist()


def test_first_images_and_images_of_one_size(run_job, attempt, store, shards, small):
    source = str(shards())
    data = run_job(LoadDataset(source=source, max_images=9, labels=False))
    assert (data.count, data.image) == (9, ImageShape(channels=3, size=10))
    assert load_dataset_tensors(store, data)[1] is None


def test_folders_of_images(both, store, tmp_path, small):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "images" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    whole, data = both(LoadDataset(source=str(tmp_path / "images"), size=SIDE))
    images, labels = load_dataset_tensors(store, data)
    assert torch.equal(images, torch.from_numpy(whole.images).permute(0, 3, 1, 2))
    assert (labels.tolist(), data.class_names) == (whole.labels.tolist(), ("a", "b"))
