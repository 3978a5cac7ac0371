"""The pairs of a set, gathered by index on the training device.

x0 is regenerated from (seed, index). Where all of it fits in memory beside x1 it is made once,
since drawing it again every step would only cost time. Of pairs made elsewhere it is stored.
"""

import torch
from torch import Tensor

from jobs.base.artifacts import PairSet
from jobs.base.errors import UserError
from jobs.pairs.draw import pair_labels, pair_noise
from jobs.pairs.shards import read_noise, read_pairs
from jobs.storage.store import Store
from models.counter_random import GENERATOR_VERSION

CACHE_BYTES = 2**30
"""Noise up to this size is kept in memory."""
CHUNK = 4096


class PairSource:
    """Random access to pairs.

    Args:
        store: where the shards are.
        pairs: the set.
        device: where batches are wanted.

    Raises:
        UserError: another version of the generator drew the noise.
        DamagedArtifact: a shard is not what the set says.
    """

    def __init__(self, store: Store, pairs: PairSet, device: torch.device) -> None:
        self._pairs = pairs
        self._x0: Tensor | None = None
        if pairs.noise == "stored":
            x0, label = read_noise(store, pairs)
            self._x0 = x0.to(device)
            self._label = None if label is None else label.to(device)
            self._x1 = read_pairs(store, pairs).to(device)
            return
        if pairs.generator_version != GENERATOR_VERSION:
            raise UserError(
                pairs.id,
                f"version {pairs.generator_version} of the random numbers made its noise, which "
                f"this program, with version {GENERATOR_VERSION}, cannot draw again",
                "generate the pairs again, or train with the program that made them",
            )
        self._x1 = read_pairs(store, pairs).to(device)
        index = torch.arange(pairs.count, device=device)
        self._label = pair_labels(pairs.seed, index, pairs.label_counts)
        if 4 * self._x1.numel() <= CACHE_BYTES:
            chunks = [
                pair_noise(pairs.seed, part, pairs.image) for part in torch.split(index, CHUNK)
            ]
            self._x0 = torch.cat(chunks)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Noise x0 float32 and images x1 float32 (B, C, H, W), and labels int64 (B,) or None."""
        if self._x0 is None:
            x0 = pair_noise(self._pairs.seed, index, self._pairs.image)
        else:
            x0 = self._x0[index]
        label = None if self._label is None else self._label[index]
        return x0, self._x1[index].float(), label
