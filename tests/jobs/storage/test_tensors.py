import pytest
import torch

from jobs.base.errors import DamagedArtifact
from jobs.storage.store import Store
from jobs.storage.tensors import load_dataset_tensors, to_float, to_uint8


def test_bytes_survive_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    floats = to_float(every)
    assert (float(floats[0]), float(floats[255])) == (-1.0, 1.0)
    assert floats.dtype == torch.float32
    assert torch.equal(to_uint8(floats), every)
    assert torch.equal(to_uint8(floats.half()), every)
    assert torch.equal(every, torch.arange(256, dtype=torch.uint8))


def test_floats_are_rounded_and_clipped():
    level = 1 / 127.5
    floats = torch.tensor([-9.0, -1.0 + 0.49 * level, -1.0 + 0.51 * level, 0.999, 1.5])
    assert to_uint8(floats).tolist() == [0, 0, 1, 255, 255]
    assert floats[0] == -9.0


def test_images_come_with_channels_first(store, make_dataset):
    data = make_dataset(count=5, size=4, channels=3, classes=2)
    images, labels = load_dataset_tensors(store, data)
    assert images.shape == (5, 3, 4, 4)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.tolist() == [0, 1, 0, 1, 0]
    assert load_dataset_tensors(store, make_dataset(count=5))[1] is None


def test_damaged_images_are_not_read(store, make_dataset):
    data = make_dataset()
    path = store.file(data, data.file)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact):
        load_dataset_tensors(Store(store.uri), data)
