"""Philox4x32-10: the words of the counters of samples, in int64 tensor arithmetic or one kernel.

Written in tensor operations a call takes a hundred kernels, one or two milliseconds of a training
step on a GPU. There a kernel in Triton, which comes with torch for GPUs, makes the same integers;
it is tried before its first use, and where it fails or differs the operations are taken. No GPU was
at hand: the kernel is tested in Triton's interpreter, and its gain is not measured.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

import logging
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch

from slimctl.models.shapes import Int, Tensor

MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_logger = logging.getLogger(__name__)

Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four int64 tensors of one shape with values in [0, 2^32)."""


def philox(key: tuple[int, int], counter: Words) -> Words:
    """Philox4x32-10: 128 random bits for each counter.

    Args:
        key: two integers in [0, 2^32).
        counter: words of any shape; they are not changed.

    Returns:
        Words of that shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit products wrap into the sign, but their bits are right: masking after the shift
        # gives the high half, and c1 and c3 are only ever xored before the next mask.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(MASK)
        c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, c3 = p1, p0
        k0, k1 = (k0 + _KEY_STEPS[0]) & MASK, (k1 + _KEY_STEPS[1]) & MASK
    return c0, c1.bitwise_and_(MASK), c2, c3.bitwise_and_(MASK)


def words(
    key: tuple[int, int],
    index: Int[Tensor, " b"],
    step: Int[Tensor, " b"],
    stream: int,
    blocks: int,
) -> Words:
    """The words (b, blocks) of the first so many blocks of each sample.

    Args:
        key: two integers in [0, 2^32).
        index: samples, 0 <= index < 2^48.
        step: of each sample, 0 <= step < 2^32.
        stream: 0 <= stream < 2^16.
        blocks: of a sample.
    """
    fused = index.device.type == "cuda" and not torch.compiler.is_compiling()
    if fused and works(index.device):
        made: Tensor = torch.ops.slimctl.philox(index, step, *key, stream, blocks)
        return made[0], made[1], made[2], made[3]
    return philox(key, _counter(index, step, stream, blocks))


def _counter(index: Tensor, step: Tensor, stream: int, blocks: int) -> Words:
    """Block of the sample, low half of its index, step, and stream below the rest of the index."""
    size = (len(index), blocks)
    block = torch.arange(blocks, device=index.device)
    high = ((index >> 32) << 16) + stream
    return (
        block.expand(size),
        (index & MASK).unsqueeze(1).expand(size),
        step.unsqueeze(1).expand(size),
        high.unsqueeze(1).expand(size),
    )


@lru_cache
def works(device: torch.device) -> bool:
    """Whether the kernel gives the same integers on a device."""
    if find_spec("triton") is None:
        return False
    index = torch.tensor([0, 1, 2**32 + 5, 2**48 - 1], device=device)
    step = torch.tensor([0, 7, 2**31, 2**32 - 1], device=device)
    try:
        for key, stream in (((0, 1), 1), ((MASK, 0x9E3779B9), 2**16 - 1)):
            found = torch.ops.slimctl.philox(index, step, *key, stream, 300)
            wanted = torch.stack(philox(key, _counter(index, step, stream, 300)))
            if not torch.equal(found, wanted):
                _logger.warning("Philox's kernel is wrong on %s and is not used", device)
                return False
    except Exception:
        _logger.warning("Philox's kernel does not run on %s", device, exc_info=True)
        return False
    return True


def _formula(
    index: Tensor, step: Tensor, key_low: int, key_high: int, stream: int, blocks: int
) -> Tensor:
    return torch.stack(philox((key_low, key_high), _counter(index, step, stream, blocks)))


def _on_gpu(
    index: Tensor, step: Tensor, key_low: int, key_high: int, stream: int, blocks: int
) -> Tensor:
    from slimctl.models.triton_philox import words  # noqa: PLC0415  (only GPUs have it)

    return words(index, step, key_low, key_high, stream, blocks)


_LIBRARY: Any = torch.library.Library("slimctl", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    "philox(Tensor index, Tensor step, int key_low, int key_high, int stream, int blocks) -> Tensor"
)
"""Words int64 (4, b, blocks)."""
_LIBRARY.impl("philox", _formula, "CPU")
_LIBRARY.impl("philox", _formula, "Meta")
_LIBRARY.impl("philox", _on_gpu, "CUDA")
