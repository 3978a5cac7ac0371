import pytest
import torch

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.evaluation.features import class_means
from slimctl.jobs.kinds.import_features import ImportFeatures
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.pixels import to_float


@pytest.fixture
def means(run_job, make_onnx, make_context):
    """Of features that are known: the mean and the largest pixel of an image."""
    features = run_job(ImportFeatures(path=str(make_onnx())))
    assert isinstance(features, FeatureNet)
    context = make_context("partition-1")
    return lambda data: torch.from_numpy(class_means(context, data, features))


def pixels(store, data) -> torch.Tensor:
    """The same features, float64 (images, 2)."""
    x = to_float(load_dataset_tensors(store, data)[0]).double().flatten(1)
    return torch.stack([x.mean(1), x.amax(1)], dim=1)


def test_each_class_lies_at_the_mean_of_its_images(store, make_dataset, means):
    data = make_dataset(count=13, classes=3)  # the labels are 0, 1, 2, 0, ...
    rows = pixels(store, data)
    expected = torch.stack([rows[label::3].mean(0) for label in range(3)])
    assert means(data).dtype == torch.float64
    torch.testing.assert_close(means(data), expected, rtol=0, atol=1e-6)


def test_a_class_without_images_lies_at_the_mean_of_all(store, make_dataset, means):
    data = make_dataset(count=3, classes=5)
    rows = pixels(store, data)
    expected = torch.cat([rows, rows.mean(0).repeat(2, 1)])
    torch.testing.assert_close(means(data), expected, rtol=0, atol=1e-6)
