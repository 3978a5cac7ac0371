"""The real images of a part of the labels."""

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_dataset_tensors


def load_part(
    store: Store, data: Dataset, labels: tuple[int, ...] | None, *, conditional: bool
) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W), and their labels int64 (N,) where the model wants some.

    Args:
        store: where the data is.
        data: the data set.
        labels: images of other labels are left out; None = all images.
        conditional: whether the model takes labels.

    Raises:
        UserError: there is no image of these labels.
        DamagedArtifact: the file is not what its manifest says.
    """
    images, label = load_dataset_tensors(store, data)
    if labels is not None and label is not None:
        rows = torch.isin(label, torch.tensor(labels)).nonzero().squeeze(1)
        images, label = images[rows], label[rows]
    if len(images) == 0 or (labels is not None and label is None):
        raise UserError(
            data.id,
            f"has no image of the labels {', '.join(map(str, labels or ()))}",
            "use a labelled data set with images of every part, or another partition",
        )
    return images, label if conditional else None
