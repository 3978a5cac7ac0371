"""The module of `mosaic_net`."""

import torch
from torch import Tensor, nn


class MosaicNet(nn.Module):
    """velocity = W (xt, t) + b."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values + 1, values)

    def forward(self, xt: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        flat = torch.cat([xt.flatten(1), t[:, None].to(xt.dtype)], dim=1)
        return self.linear(flat).view_as(xt)
