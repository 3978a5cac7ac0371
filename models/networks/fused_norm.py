"""GroupNorm and SiLU in one kernel on a GPU, where torch's takes four and undoes the memory format.

Under autocast torch's GroupNorm reads and writes float32, and on a GPU it makes NCHW of NHWC, so
each one is followed and preceded by copies. This one keeps the type and the format of its input,
NHWC; its statistics, and all between reading and writing, are float32. It is written in Triton,
which comes with torch for GPUs. Everywhere else, and where a network is compiled, which fuses the
same itself, the two are torch's own: `functional.silu(norm(x))`.

No GPU was at hand: the kernel is tested in Triton's interpreter and is tried on the device before
its first use; where it fails or differs there, torch's own are taken. Its gain is not measured.

Source: Wu and He, Group normalization (ECCV 2018), eq. 1-3.
"""

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from slimctl.models.shapes import Float, Tensor

_TOLERANCE = 1e-4
"""Largest difference to torch's float32 result for which the kernel is taken."""
_logger = logging.getLogger(__name__)


def norm(layer: nn.GroupNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`layer(x)`; on a GPU of the type of x."""
    return _apply(layer, x, silu=False) if _is_fused(x) else layer(x)


def norm_silu(layer: nn.GroupNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`silu(layer(x))`; on a GPU of the type of x."""
    return _apply(layer, x, silu=True) if _is_fused(x) else functional.silu(layer(x))


def _is_fused(x: Tensor) -> bool:
    if x.device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and works(x.device)


@lru_cache
def works(device: torch.device) -> bool:
    """Whether the kernel gives on a device what torch's own gives, values and gradients."""
    if find_spec("triton") is None:
        return False
    layer = nn.GroupNorm(3, 15).to(device)
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 15, 5, 7, device=device).contiguous(memory_format=torch.channels_last)
    found, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    try:
        with torch.enable_grad(), torch.autocast("cuda", enabled=False):
            pairs = [(_apply(layer, found, silu=True), functional.silu(layer(wanted)))]
            asked = (
                torch.autograd.grad(y.square().sum(), (each, layer.weight, layer.bias))
                for y, each in zip(pairs[0], (found, wanted), strict=True)
            )
            pairs += zip(*asked, strict=True)
        right = all(torch.allclose(*both, rtol=_TOLERANCE, atol=_TOLERANCE) for both in pairs)
    except Exception:
        _logger.warning("the fused GroupNorm does not run on %s", device, exc_info=True)
        return False
    if not right:
        _logger.warning("the fused GroupNorm is wrong on %s and is not used", device)
    return right


def _apply(layer: nn.GroupNorm, x: Tensor, *, silu: bool) -> Tensor:
    made: Tensor = _FusedNorm.apply(  # type: ignore[no-untyped-call]
        x, layer.weight, layer.bias, layer.num_groups, layer.eps, silu
    )
    return made


class _FusedNorm(torch.autograd.Function):
    """The kernels and their gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> Tensor:
        y: Tensor
        y, mean, rstd = torch.ops.slimctl.group_norm(x, weight, bias, groups, eps, silu)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.how = (groups, silu)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx, affine = torch.ops.slimctl.group_norm_backward(gradient, *ctx.saved_tensors, *ctx.how)
        dw, db = affine.sum(dim=1).unbind()
        return dx, dw, db, None, None, None


_LIBRARY: Any = torch.library.Library("slimctl", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "group_norm(Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool silu)"
    " -> (Tensor, Tensor, Tensor)"
)
"""The result, and mean and 1 / deviation float32 (B, groups)."""
_LIBRARY.define(
    "group_norm_backward(Tensor dy, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor rstd,"
    " int groups, bool silu) -> (Tensor, Tensor)"
)
"""The gradient of x, and those of scale and shift for each sample, float32 (2, B, C)."""


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, operation by operation."""
    grouped = x.float().reshape(len(x), groups, -1)
    mean = grouped.mean(dim=2)
    rstd = (grouped.var(dim=2, correction=0) + eps).rsqrt()
    z = _normalised(x, mean, rstd) * weight[:, None, None] + bias[:, None, None]
    y = (functional.silu(z) if silu else z).to(x.dtype)
    return y.contiguous(memory_format=torch.channels_last), mean, rstd


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    grouped = x.float().reshape(len(x), mean.shape[1], -1)
    return ((grouped - mean[:, :, None]) * rstd[:, :, None]).view(x.shape)


def _backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Its gradient, operation by operation."""
    n, dz = _normalised(x, mean, rstd), dy.float()
    if silu:
        z = n * weight[:, None, None] + bias[:, None, None]
        share = z.sigmoid()
        dz = dz * share * (1.0 + z * (1.0 - share))
    affine = torch.stack(((dz * n).sum(dim=(2, 3)), dz.sum(dim=(2, 3))))
    scaled = (dz * weight[:, None, None]).reshape(len(x), groups, -1)
    flat = n.reshape(len(x), groups, -1)
    pull = scaled.mean(dim=2, keepdim=True) + flat * (scaled * flat).mean(dim=2, keepdim=True)
    dx = ((scaled - pull) * rstd[:, :, None]).view(x.shape).to(x.dtype)
    return dx.contiguous(memory_format=torch.channels_last), affine


def _on_gpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    from slimctl.models.networks.triton_norm import forward  # noqa: PLC0415  (only GPUs have it)

    return forward(*arguments)


def _backward_on_gpu(*arguments: Any) -> tuple[Tensor, Tensor]:
    from slimctl.models.networks.triton_norm import backward  # noqa: PLC0415

    return backward(*arguments)


for _name, _formula, _kernel in (
    ("group_norm", _forward, _on_gpu),
    ("group_norm_backward", _backward, _backward_on_gpu),
):
    _LIBRARY.impl(_name, _formula, "CPU")
    _LIBRARY.impl(_name, _formula, "Meta")
    _LIBRARY.impl(_name, _kernel, "CUDA")
