"""The kernels of `fused_norm`: one program normalises one group of one sample, in NHWC.

A group of a sample is some kilobytes, which stay in the cache between the three times that they are
read: for the mean, for the deviation and to be written.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from slimctl.models.shapes import Tensor

_ELEMENTS = 4096
"""Numbers looked at together by a program."""


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202
    x, weight, bias, y, means, rstds, pixels, channels, groups, eps,  # noqa: ANN001
    OF_GROUP: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr,  # noqa: N803
):  # fmt: skip
    program = tl.program_id(0)
    group = program % groups
    base = (program // groups).to(tl.int64) * pixels * channels + group * OF_GROUP
    column = tl.arange(0, WIDTH)
    inside = column < OF_GROUP
    count = pixels * OF_GROUP
    total = tl.zeros((PIXELS, WIDTH), tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        at = base + pixel[:, None] * channels + column[None, :]
        total += tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    mean = tl.sum(tl.sum(total, axis=1), axis=0) / count
    total = tl.zeros((PIXELS, WIDTH), tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        at = base + pixel[:, None] * channels + column[None, :]
        apart = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean
        total += tl.where(mask, apart * apart, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(tl.sum(total, axis=1), axis=0) / count + eps)
    scale = tl.load(weight + group * OF_GROUP + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + group * OF_GROUP + column, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        at = base + pixel[:, None] * channels + column[None, :]
        z = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean) * rstd
        z = z * scale[None, :] + shift[None, :]
        if SILU:
            z = z * tl.sigmoid(z)
        tl.store(y + at, z.to(y.dtype.element_ty), mask=mask)
    tl.store(means + program, mean)
    tl.store(rstds + program, rstd)


@triton.jit  # type: ignore[untyped-decorator]
def _slope(z, dy, SILU: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, N803
    """The gradient of z from that of silu(z)."""
    if SILU:
        share = tl.sigmoid(z)
        dy = dy * share * (1.0 + z * (1.0 - share))
    return dy


@triton.jit  # type: ignore[untyped-decorator]
def _backward_kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202
    dy, x, weight, bias, means, rstds, dx, affine, pixels, channels, groups, samples,  # noqa: ANN001
    OF_GROUP: tl.constexpr, WIDTH: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr,  # noqa: N803
):  # fmt: skip
    program = tl.program_id(0)
    group, sample = program % groups, (program // groups).to(tl.int64)
    base = sample * pixels * channels + group * OF_GROUP
    column = tl.arange(0, WIDTH)
    inside = column < OF_GROUP
    scale = tl.load(weight + group * OF_GROUP + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + group * OF_GROUP + column, mask=inside, other=0.0).to(tl.float32)
    mean, rstd = tl.load(means + program), tl.load(rstds + program)
    of_scale = tl.zeros((PIXELS, WIDTH), tl.float32)
    of_shift = tl.zeros((PIXELS, WIDTH), tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        at = base + pixel[:, None] * channels + column[None, :]
        n = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean) * rstd
        coming = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        dz = _slope(n * scale[None, :] + shift[None, :], coming, SILU)
        of_scale += tl.where(mask, dz * n, 0.0)
        of_shift += tl.where(mask, dz, 0.0)
    scales, shifts = tl.sum(of_scale, axis=0), tl.sum(of_shift, axis=0)
    place = sample * channels + group * OF_GROUP + column
    tl.store(affine + place, scales, mask=inside)
    tl.store(affine + samples * channels + place, shifts, mask=inside)
    count = pixels * OF_GROUP
    along = tl.sum(scales * scale, axis=0) / count
    level = tl.sum(shifts * scale, axis=0) / count
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        mask = (pixel < pixels)[:, None] & inside[None, :]
        at = base + pixel[:, None] * channels + column[None, :]
        n = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean) * rstd
        coming = tl.load(dy + at, mask=mask, other=0.0).to(tl.float32)
        dz = _slope(n * scale[None, :] + shift[None, :], coming, SILU)
        change = (dz * scale[None, :] - level - n * along) * rstd
        tl.store(dx + at, change.to(dx.dtype.element_ty), mask=mask)


def _blocks(channels: int, groups: int) -> dict[str, Any]:
    width = triton.next_power_of_2(channels // groups)
    pixels = max(1, _ELEMENTS // width)
    return {"OF_GROUP": channels // groups, "WIDTH": width, "PIXELS": pixels}


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """As `slimctl::group_norm`; x is (B, C, H, W) in channels_last."""
    samples, channels, height, width = x.shape
    y = torch.empty_like(x)
    mean = torch.empty((samples, groups), dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    if x.numel():
        _forward_kernel[(samples * groups,)](
            x, weight, bias, y, mean, rstd, height * width, channels, groups, eps,
            SILU=silu, **_blocks(channels, groups),
        )  # fmt: skip
    return y, mean, rstd


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """As `slimctl::group_norm_backward`; dy and x are in channels_last."""
    samples, channels, height, width = x.shape
    dx = torch.empty_like(x)
    affine = torch.zeros((2, samples, channels), dtype=torch.float32, device=x.device)
    if x.numel():
        _backward_kernel[(samples * groups,)](
            dy, x, weight, bias, mean, rstd, dx, affine, height * width, channels, groups, samples,
            SILU=silu, **_blocks(channels, groups),
        )  # fmt: skip
    return dx, affine
