"""Noise and label of pair i, as functions of (seed, i)."""

from collections.abc import Sequence

from torch import Tensor

from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.spec import ImageShape


def pair_noise(seed: int, index: Tensor, image: ImageShape) -> Tensor:
    """x0 of the pairs `index`: float32 (B, C, H, W), standard normal."""
    shape = (image.channels, image.size, image.size)
    return counter_random.normal(seed, Stream.PAIR_NOISE, index, shape)


def pair_labels(seed: int, index: Tensor, label_counts: Sequence[int]) -> Tensor | None:
    """Labels of the pairs `index` from the marginal: int64 (B,); None if there are no classes."""
    if not label_counts:
        return None
    return counter_random.categorical(seed, Stream.PAIR_LABEL, index, label_counts)
