"""Philox4x32-10 as one kernel: a block of a sample is four 32-bit words."""

import torch
import triton
import triton.language as tl

from slimctl.models.shapes import Tensor

_BLOCKS = 512
"""Blocks made by a program."""


@triton.jit(do_not_specialize=["blocks", "total", "key_low", "key_high", "stream"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]  # noqa: ANN202
    index, step, out, blocks, total, key_low, key_high, stream,  # noqa: ANN001
    BLOCKS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    mask = place < total
    sample = place // blocks
    number = tl.load(index + sample, mask=mask, other=0)
    c0 = (place - sample * blocks).to(tl.uint32)
    c1 = number.to(tl.uint32)
    c2 = tl.load(step + sample, mask=mask, other=0).to(tl.uint32)
    c3 = (((number >> 32) << 16) + stream).to(tl.uint32)
    k0 = tl.zeros((BLOCKS,), tl.uint32) + key_low.to(tl.uint32)
    k1 = tl.zeros((BLOCKS,), tl.uint32) + key_high.to(tl.uint32)
    m0 = tl.full((BLOCKS,), 0xD2511F53, tl.uint32)
    m1 = tl.full((BLOCKS,), 0xCD9E8D57, tl.uint32)
    s0 = tl.full((BLOCKS,), 0x9E3779B9, tl.uint32)
    s1 = tl.full((BLOCKS,), 0xBB67AE85, tl.uint32)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        low0, low1 = c0 * m0, c2 * m1
        c0, c2 = high1 ^ c1 ^ k0, high0 ^ c3 ^ k1
        c1, c3 = low1, low0
        k0, k1 = k0 + s0, k1 + s1
    tl.store(out + place, c0.to(tl.int64), mask=mask)
    tl.store(out + total + place, c1.to(tl.int64), mask=mask)
    tl.store(out + 2 * total + place, c2.to(tl.int64), mask=mask)
    tl.store(out + 3 * total + place, c3.to(tl.int64), mask=mask)


def words(
    index: Tensor, step: Tensor, key_low: int, key_high: int, stream: int, blocks: int
) -> Tensor:
    """As `slimctl::philox`; arguments as in `slimctl.models.philox.words`."""
    total = len(index) * blocks
    out = torch.empty((4, len(index), blocks), dtype=torch.int64, device=index.device)
    if total:
        _kernel[(triton.cdiv(total, _BLOCKS),)](
            index.contiguous(), step.contiguous(), out, blocks, total, key_low, key_high, stream,
            BLOCKS=_BLOCKS,
        )  # fmt: skip
    return out
