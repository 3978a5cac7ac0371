"""Computing activations again on the way back instead of keeping them.

A block then keeps its inputs only, and its inside is computed once more when its gradient is
due: about a third more time for a step, and a fraction of the memory. Masks of dropout are drawn
again from the same state of the generator, so gradients are the same bits on a CPU.

Source: Chen et al., Training deep nets with sublinear memory cost, arXiv 1604.06174.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(module: nn.Module) -> int:
    """Makes all networks inside compute their blocks again; returns the number of blocks.

    A network names its blocks as `recomputable`.
    """
    count = 0
    for part in list(module.modules()):
        for block in getattr(part, "recomputable", ()):
            block.forward = _Recomputed(block.forward)
            count += 1
    return count


class _Recomputed:
    """A block's `forward` that keeps its arguments only, where a gradient will be asked for."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
