"""Copies to a device that the host does not wait for."""

import torch

from slimctl.models.shapes import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; to a GPU from pinned memory, behind the work that is queued there.

    A plain `to` waits until a GPU has done all that was asked of it before.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
