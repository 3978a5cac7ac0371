"""Bytes that a computation holds at once, counted on torch's FakeTensors: nothing is allocated."""

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Held(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            storage = tensor.untyped_storage()
            if storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        return result

    def _free(self, number: int, size: int) -> None:
        self.seen.discard(number)
        self.now -= size


def fake_bytes(
    prepare: Callable[[], Callable[[], Tensor]], *, backward: bool, counts_all: bool = False
) -> int:
    """Most bytes alive at once.

    Args:
        prepare: makes what is there before, and returns what computes a loss.
        backward: whether the gradient follows; None = the computation says so itself.
        counts_all: whether what `prepare` makes counts too.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        if counts_all:
            with _Held() as held:
                _compute(prepare(), backward=backward)
            return held.most
        compute = prepare()
        with _Held() as held:
            _compute(compute, backward=backward)
    return held.most


def _compute(loss: Callable[[], Tensor], *, backward: bool | None) -> None:
    with torch.set_grad_enabled(backward is not False):
        value = loss()
        if backward:
            value.backward()
