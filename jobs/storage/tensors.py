"""Images and pairs of the store as tensors."""

import torch
from safetensors.torch import load_file
from torch import Tensor

from jobs.base.artifacts import Dataset
from jobs.storage.store import Store


def load_dataset_tensors(store: Store, dataset: Dataset) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W) and labels int64 (N,) or None.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    tensors = load_file(store.file(dataset, dataset.file))
    return tensors["images"].permute(0, 3, 1, 2).contiguous(), tensors.get("labels")


def to_float(images: Tensor) -> Tensor:
    """Maps uint8 0..255 to float32 -1..1."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Maps float -1..1 to uint8 0..255, rounding to the nearest and clipping."""
    return images.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
