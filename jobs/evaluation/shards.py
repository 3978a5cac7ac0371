"""How the samples of an evaluation are cut into shards."""

from dataclasses import dataclass

SHARD_SAMPLES = 2500
"""Of a shard, but whole batches: its covariance is no larger in the store than its features."""


@dataclass(frozen=True)
class Shard:
    """Some samples of a draw: whole batches, but for its last one."""

    number: int
    draw: int
    first: int
    """Place of its first sample in the draw."""
    count: int


def shards_of(samples: int, draws: int, batch_size: int) -> list[Shard]:
    """The shards of so many draws of `samples`."""
    size = batch_size * max(1, SHARD_SAMPLES // batch_size)
    starts = [(draw, first) for draw in range(draws) for first in range(0, samples, size)]
    return [
        Shard(number, draw, first, min(size, samples - first))
        for number, (draw, first) in enumerate(starts)
    ]
