"""Random numbers as a pure function of (seed, stream, step, index): no state, no global generator.

One block of Philox4x32-10, a counter-based generator, is four 32-bit words from a counter of four
and a key of two:

    key      low and high half of the seed
    word 0   block within the sample: numbers 4 k .. 4 k + 3 of a sample are block k
    word 1   low half of the sample's index
    word 2   step, such as the training step
    word 3   stream in the low 16 bits, index >> 32 above them

So sample i has the same numbers in whatever batch, shard or order it is made, and a longer sample
begins with the numbers of a shorter one. Integers are bit-equal on every device; normals agree up
to the last bits of the device's `log`, `sin` and `cos`. Whoever stores such numbers stores
`GENERATOR_VERSION` with them.

Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

import math
from collections.abc import Callable, Sequence
from enum import IntEnum, unique
from functools import lru_cache

import torch

from slimctl.models.philox import MASK, Words, philox, words
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.transfer import to_device

GENERATOR_VERSION = 1
"""Changes whenever the same arguments would give other numbers."""

_CPU_PIECE = 32_768
"""Blocks worked on at once on a CPU: bounds the memory, and saves 20-40 % of the time of a large
batch by staying in the cache."""

_ORDER_ROUNDS = 12
"""Half rounds of the Feistel network; `shuffled_index` says for how many elements they suffice."""
_HASH_FACTORS = (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85, 0x27BB2EE687B0B0FD)
"""Odd multipliers for 64-bit hashing."""


@unique
class Stream(IntEnum):
    """What a number is for. Streams of one seed are independent of each other."""

    PAIR_NOISE = 0
    """x0 of pair i."""
    PAIR_LABEL = 1
    """Label of pair i."""
    SAMPLE_NOISE = 2
    """x0 of a sample drawn to measure or to look at."""
    SAMPLE_LABEL = 3
    """Label of such a sample."""
    ORDER = 4
    """Order of the training data."""
    TIME = 5
    """Flow time t of a training sample."""
    NOISE = 6
    """Noise of a training sample: x0 of a flow, the fresh share of annealing."""
    FLIP = 7
    """Whether a training sample is mirrored."""
    GUIDED_NOISE = 8
    """x0 of the guided term of distillation."""
    GUIDED_LABEL = 9
    """Label of the guided term."""
    GUIDED_TIME = 10
    """Intermediate time s of the guided term."""
    SUBSET = 11
    """Choice of a subset, or a bootstrap draw, in a measurement."""
    LABEL_DROPOUT = 12
    """Whether a training sample's label is dropped."""
    AUGMENTATION = 13
    """How an image is changed before a critic sees it."""
    CAPTION = 14
    """Which of the prompts of its class stands beside a training image."""


def normal(
    seed: int,
    stream: int,
    index: Int[Tensor, " b"],
    shape: tuple[int, ...],
    step: int | Int[Tensor, " b"] = 0,
    device: torch.device | str | None = None,
) -> Float[Tensor, " b *shape"]:
    """Standard normal numbers (float32) of the samples `index`.

    Args:
        seed: 0 <= seed < 2^64.
        stream: 0 <= stream < 2^16; a `Stream`, or a number of your own from 4096 up.
        index: global sample numbers, 0 <= index < 2^48.
        shape: shape of one sample, such as (C, H, W).
        step: 0 <= step < 2^32, one for all or one for each sample.
        device: where to compute and return; None is where `index` is.

    The largest magnitude is 6.76: the radius has 32 bits, so its tail is right where that of a
    24-bit uniform ends at 5.8.

    Raises:
        ValueError: seed, stream or step outside its range (a tensor is not looked at).

    Source: Box and Muller (1958).
    """
    return _numbers(_box_muller, seed, stream, index, shape, step, device)


def uniform(
    seed: int,
    stream: int,
    index: Int[Tensor, " b"],
    shape: tuple[int, ...] = (),
    step: int | Int[Tensor, " b"] = 0,
    device: torch.device | str | None = None,
) -> Float[Tensor, " b *shape"]:
    """Uniform numbers in [0, 1): multiples of 2^-24, exact in float32. Arguments as in `normal`."""
    return _numbers(_unit_interval, seed, stream, index, shape, step, device)


def integers(
    seed: int,
    stream: int,
    index: Int[Tensor, " b"],
    high: int,
    shape: tuple[int, ...] = (),
    step: int | Int[Tensor, " b"] = 0,
    device: torch.device | str | None = None,
) -> Int[Tensor, " b *shape"]:
    """Integers (int64) in [0, high), 1 <= high < 2^31. Other arguments as in `normal`.

    A value's probability is off by at most 2^-32.
    """
    if not 1 <= high < 2**31:
        raise ValueError(f"high is {high}: it must be at least 1 and below 2^31")

    def below_high(words: Words) -> Sequence[Tensor]:
        return [(word * high) >> 32 for word in words]

    return _numbers(below_high, seed, stream, index, shape, step, device)


def categorical(
    seed: int,
    stream: int,
    index: Int[Tensor, " b"],
    counts: Sequence[int],
    step: int | Int[Tensor, " b"] = 0,
    device: torch.device | str | None = None,
) -> Int[Tensor, " b"]:
    """Labels (int64) drawn in proportion to `counts`. Other arguments as in `normal`.

    Raises:
        ValueError: a count is negative, or all are 0.
    """
    if min(counts, default=-1) < 0 or sum(counts) == 0:
        raise ValueError(f"counts are {list(counts)}: give one number >= 0 per class, one above 0")
    draw = integers(seed, stream, index, sum(counts), (), step, device)
    bounds = to_device(torch.tensor(counts, dtype=torch.int64).cumsum(0), draw.device)
    return torch.searchsorted(bounds, draw, right=True)


def data_order(seed: int, position: Int[Tensor, " b"], count: int) -> Int[Tensor, " b"]:
    """Which of `count` training samples stands at each global position, epoch after epoch.

    Args:
        seed: 0 <= seed < 2^64.
        position: samples drawn since the start of training, >= 0; every run of `count` positions
            from a multiple of `count` is one epoch and holds each sample once.
        count: number of training samples.
    """
    return shuffled_index(seed, position // count, position % count, count)


def shuffled_index(
    seed: int, epoch: int | Int[Tensor, " b"], position: Int[Tensor, " b"], count: int
) -> Int[Tensor, " b"]:
    """A pseudo-random bijection on [0, count), evaluated element by element.

    A Feistel network on a grid just larger than `count`, left by walking on where it lands outside.
    The walk looks at the values, so keep `position` on the CPU.

    Every element comes once. Of 5 or 6 elements the orders are not exactly equally likely (600,000
    of them tell it by chi-square; of 3 and 4 they do not), and of more they were not all counted.
    What comes first is as likely as anything else, by 600,000 orders of up to 6 and 200,000 of up
    to 49 elements.

    Args:
        seed: 0 <= seed < 2^64.
        epoch: >= 0, one for all or one for each element; each has a bijection of its own.
        position: 0 <= position < count.
        count: 1 <= count < 2^62.

    Raises:
        ValueError: count or a position outside its range.

    Source: Black and Rogaway, Ciphers with arbitrary finite domains (CT-RSA 2002), generalized
    Feistel cipher with cycle walking.
    """
    if not 1 <= count < 2**62:
        raise ValueError(f"count is {count}: it must be at least 1 and below 2^62")
    if bool(((position < 0) | (position >= count)).any()):
        raise ValueError(f"a position lies outside 0..{count - 1}: take it modulo the count")
    epoch = epoch if isinstance(epoch, Tensor) else torch.full_like(position, epoch)
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    place = _feistel(seed, epoch, position, rows, columns)
    while bool((outside := place >= count).any()):
        place = torch.where(outside, _feistel(seed, epoch, place, rows, columns), place)
    return place


def _feistel(seed: int, epoch: Tensor, place: Tensor, rows: int, columns: int) -> Tensor:
    row, column = place // columns, place % columns
    keys = _order_keys(seed)
    for row_key, column_key in zip(keys[::2], keys[1::2], strict=True):
        row = (row + _hash(column, epoch, row_key)) % rows
        column = (column + _hash(row, epoch, column_key)) % columns
    return row * columns + column


@lru_cache(maxsize=64)
def _order_keys(seed: int) -> tuple[int, ...]:
    """One 63-bit key for each half round."""
    rounds = torch.arange(_ORDER_ROUNDS)
    zero = torch.zeros_like(rounds)
    words = philox(_key(seed), (rounds, zero, zero, zero + Stream.ORDER))
    return tuple(((words[0] << 31) ^ words[1]).tolist())


def _hash(value: Tensor, epoch: Tensor, key: int) -> Tensor:
    """31 well mixed bits of (value, epoch, key): two rounds of multiply and xor-shift."""
    mixed = value * _HASH_FACTORS[0] + epoch * _HASH_FACTORS[1] + key
    mixed = (mixed ^ (mixed >> 32)) * _HASH_FACTORS[2]
    mixed = (mixed ^ (mixed >> 29)) * _HASH_FACTORS[0]
    return (mixed >> 32) & 0x7FFFFFFF


def _numbers(
    transform: Callable[[Words], Sequence[Tensor]],
    seed: int,
    stream: int,
    index: Tensor,
    shape: tuple[int, ...],
    step: int | Tensor,
    device: torch.device | str | None,
) -> Tensor:
    """Applies `transform` to the words of every sample: tensor (B, *shape)."""
    if not 0 <= stream < 2**16:
        raise ValueError(f"stream is {stream}: it must be at least 0 and below 2^16")
    key = _key(seed)
    index = index.to(device or index.device, torch.int64)
    steps = _steps(step, index)
    count = math.prod(shape)
    blocks = -(-count // 4)
    rows = _CPU_PIECE // max(1, blocks) if index.device.type == "cpu" else len(index)
    pieces = zip(torch.split(index, max(1, rows)), torch.split(steps, max(1, rows)), strict=True)
    parts = []
    for piece_index, piece_steps in pieces:
        drawn = words(key, piece_index, piece_steps, stream, blocks)
        parts.append(torch.stack(tuple(transform(drawn)), dim=-1))
    numbers = torch.cat(parts) if len(parts) > 1 else parts[0]
    return numbers.flatten(1)[:, :count].reshape(len(index), *shape).contiguous()


def _key(seed: int) -> tuple[int, int]:
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}: it must be at least 0 and below 2^64")
    return seed & MASK, seed >> 32


def _steps(step: int | Tensor, index: Tensor) -> Tensor:
    if isinstance(step, Tensor):
        return step.to(index.device, torch.int64)
    if not 0 <= step < 2**32:
        raise ValueError(f"step is {step}: it must be at least 0 and below 2^32")
    return torch.full_like(index, step)


def _box_muller(words: Words) -> Sequence[Tensor]:
    normals = []
    for radius_word, angle_word in (words[:2], words[2:]):
        # Half a unit keeps the logarithm's argument above 0; 2^-33 is the smallest.
        radius = radius_word.float().add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = angle_word.float().mul_(2.0 * math.pi * 2.0**-32)
        normals += [angle.cos().mul_(radius), angle.sin_().mul_(radius)]
    return normals


def _unit_interval(words: Words) -> Sequence[Tensor]:
    return [(word >> 8).float().mul_(2.0**-24) for word in words]
