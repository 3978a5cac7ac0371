import pytest
import torch

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors


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
