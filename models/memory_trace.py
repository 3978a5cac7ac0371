"""Counting the bytes that tensors hold, with tensors that hold none."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from slimctl.models.metrics.cost import build_on_meta, example_label
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.perceptual.lpips import LPIPS
from slimctl.models.recompute import recompute_blocks
from slimctl.models.relativistic import squared_slope
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

PRODUCTS = frozenset(
    {
        torch.conv2d, functional.conv2d, functional.conv_transpose2d, functional.linear,
        torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.addmm,
        functional.scaled_dot_product_attention,
    }
)  # fmt: skip
"""What autocast computes in bfloat16."""
NORMS = frozenset({functional.group_norm, functional.layer_norm, functional.softmax, torch.softmax})
"""What autocast computes in float32 on a GPU."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that are made inside, and notes the most alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = 0
        self.now = 0
        self._alive: dict[int, Any] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        self.most = max(self.most, self.now)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        """Counts a storage once, until nobody has it any more."""
        number, size = id(storage), storage.nbytes()
        if number in self._alive:
            return
        self.now += size

        def gone(_: object) -> None:
            self.now -= size
            del self._alive[number]

        self._alive[number] = weakref.ref(storage, gone)


class Autocast(TorchFunctionMode):
    """What autocast does on a GPU, where there is none."""

    def __init__(self, *, on: bool) -> None:
        super().__init__()
        self._on = on
        self._weights: dict[int, Tensor] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        dtype = torch.bfloat16 if func in PRODUCTS else torch.float32 if func in NORMS else None
        if not self._on or dtype is None:
            return func(*args, **(kwargs or {}))
        named = {name: self._cast(value, dtype) for name, value in (kwargs or {}).items()}
        return func(*(self._cast(value, dtype) for value in args), **named)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        """A tensor in that precision; weights are cast once."""
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        if dtype == torch.bfloat16 and isinstance(value, torch.nn.Parameter):
            return self._weights.setdefault(id(value), value.to(dtype))
        return value.to(dtype)


class FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel computes it, which the meta device has not."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value = (*args, *(kwargs or {}).values())[:3]
            return _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """Keeps its three inputs, its output, and a number per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, rows, _ = query.shape
        output = query.new_empty((batch, rows, heads, value.shape[-1])).transpose(1, 2)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1]).float())
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


def trace_network(
    network: NetworkSpec,
    image: ImageShape,
    batch: int,
    *,
    gradient: bool,
    bfloat16: bool,
    recompute: bool = False,
) -> tuple[int, int]:
    """Most bytes alive at once in an evaluation, and those that are kept for its gradient.

    See `networks.memory.evaluation_bytes`.
    """
    module = build_on_meta(network, image).train(gradient)
    if recompute:
        for block in getattr(module, "recomputable", ()):
            block.forward = _inside(Autocast(on=bfloat16), block.forward)
        recompute_blocks(module)
    xt = torch.empty(batch, image.channels, image.size, image.size, device="meta")
    label = example_label(module, image, batch)
    t = torch.empty(batch, device="meta")
    live, cast = LiveBytes(), Autocast(on=bfloat16)
    with torch.set_grad_enabled(gradient), live, FusedAttention(), cast:
        output = module(xt, t, label).float()
        keeps = live.now
        if gradient:
            (output - xt).square().mean().backward()
    return live.most, keeps


def _inside(cast: Autocast, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block that is as on a GPU on the way back too, where no mode of the caller holds."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with FusedAttention(), cast:
            return forward(*args, **kwargs)

    return call


def trace_critic(network: NetworkSpec, image: ImageShape, batch: int) -> tuple[int]:
    """Most bytes alive at once while a critic of images learns, with the penalty of its slope."""
    module = build_on_meta(network, image)
    images = torch.empty(batch, image.channels, image.size, image.size, device="meta")
    label = torch.empty(batch, dtype=torch.int64, device="meta") if image.classes else None
    images.requires_grad_()
    live = LiveBytes()
    with live:
        said = module(images, torch.empty(batch, device="meta"), label)
        (said.mean() + squared_slope(said[:, 0], images).mean()).backward()
    return (live.most,)


def trace_lpips(image: ImageShape, batch: int, size: int | None) -> tuple[int]:
    """Most bytes alive at once in an LPIPS distance and its gradient in the first image."""
    with torch.device("meta"):
        network = LPIPS(size).requires_grad_(requires_grad=False)
        images = torch.empty(2, batch, image.channels, image.size, image.size)
    made = images[0].requires_grad_()
    live = LiveBytes()
    with live:
        network(made, images[1]).mean().backward()
    return (live.most,)
