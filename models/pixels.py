"""Between the pixels of files and those of networks."""

import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Maps uint8 0..255 to float32 -1..1."""
    return images.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Maps float -1..1 to uint8 0..255, rounding to the nearest and clipping."""
    return images.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
