"""Where each class lies among the features of a network."""

import torch

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.partition import Matrix


def class_means(context: JobContext, data: Dataset, features: FeatureNet) -> Matrix:
    """Mean features of the real images of each class: (classes, dimensions).

    A class without images lies at the mean of all images.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    images, label = load_dataset_tensors(context.store, data)
    assert label is not None  # checked: the data has classes
    extract = open_features(context.store, features, torch.device(context.device))
    vectors = extract(images).double()
    means = vectors.mean(dim=0).repeat(data.image.classes, 1)
    for each in label.unique().tolist():  # type: ignore[no-untyped-call]
        means[each] = vectors[label == each].mean(dim=0)
    return means.numpy()
