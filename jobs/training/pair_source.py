"""The pairs of a set, gathered by index on the training device.

x1 is kept on the device where it fits there; a larger set stays on disk and the next step's part of
it is read while this one computes. x0 is regenerated from (seed, index). Where all of it fits in
memory beside x1 it is made once, since drawing it again every step would only cost time. Of pairs
made elsewhere it is stored.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from jobs.base.artifacts import PairSet
from jobs.base.errors import UserError
from jobs.pairs.draw import pair_labels, pair_noise
from jobs.pairs.shard_rows import ShardRows
from jobs.pairs.shards import read_noise, read_pairs
from jobs.storage.store import Store
from models.counter_random import GENERATOR_VERSION

CACHE_BYTES = 2**30
"""Noise up to this size is kept in memory."""
CHUNK = 4096
CPU_BYTES = 2**30
"""x1 up to this size is kept in memory on a CPU."""
CUDA_SHARE = 0.25
"""Share of a GPU's free memory up to which x1 is kept there; untested on CUDA."""
_READER = ThreadPoolExecutor(1, thread_name_prefix="pairs")


class PairSource:
    """Random access to pairs.

    Args:
        store: where the shards are.
        pairs: the set.
        device: where batches are wanted.
        labels: pairs of other labels are left out; None = all pairs.

    Attributes:
        count: number of pairs.

    Raises:
        UserError: another version of the generator drew the noise, or no pair has such a label.
        DamagedArtifact: a shard is not what the set says.
    """

    def __init__(
        self,
        store: Store,
        pairs: PairSet,
        device: torch.device,
        labels: tuple[int, ...] | None = None,
    ) -> None:
        self._pairs = pairs
        self._device = device
        self._x0: Tensor | None = None
        self._rows: ShardRows | None = None
        self._ahead: tuple[Tensor, Future[Tensor]] | None = None
        if pairs.noise == "stored":
            x0, label = read_noise(store, pairs)
            self._x0 = x0.to(device)
            self._label = None if label is None else label.to(device)
        else:
            self._regenerate(pairs, device)
        self._x1: Tensor | None = None
        if pairs.noise == "stored" or fits(pairs, device):
            self._x1 = read_pairs(store, pairs).to(device)
        else:
            self._rows = ShardRows(store, pairs)
        self._kept = None if labels is None else self._of_labels(labels)
        self.count = pairs.count if self._kept is None else len(self._kept)

    def _regenerate(self, pairs: PairSet, device: torch.device) -> None:
        """Labels, and noise where it fits into memory."""
        if pairs.generator_version != GENERATOR_VERSION:
            raise UserError(
                pairs.id,
                f"version {pairs.generator_version} of the random numbers made its noise, which "
                f"this program, with version {GENERATOR_VERSION}, cannot draw again",
                "generate the pairs again, or train with the program that made them",
            )
        index = torch.arange(pairs.count, device=device)
        self._label = pair_labels(pairs.seed, index, pairs.label_counts)
        if 4 * numbers(pairs) <= CACHE_BYTES:
            chunks = [
                pair_noise(pairs.seed, part, pairs.image) for part in torch.split(index, CHUNK)
            ]
            self._x0 = torch.cat(chunks)

    def _of_labels(self, labels: tuple[int, ...]) -> Tensor:
        """Numbers of the pairs that have one of the labels."""
        kept = torch.empty(0)
        if self._label is not None:
            wanted = torch.tensor(labels, device=self._label.device)
            kept = torch.isin(self._label, wanted).nonzero().squeeze(1)
        if len(kept) == 0:
            raise UserError(
                self._pairs.id,
                f"none of its {self._pairs.count} pairs has one of the labels {labels}",
                "generate more pairs, from a conditional flow",
            )
        return kept

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Pairs `index` of 0..count-1.

        Returns:
            Noise x0 float32 and images x1 float32 (B, C, H, W), and labels int64 (B,) or None.
        """
        index = self._number(index)
        if self._x0 is None:
            x0 = pair_noise(self._pairs.seed, index, self._pairs.image)
        else:
            x0 = self._x0[index]
        label = None if self._label is None else self._label[index]
        return x0, self._images(index).float(), label

    def _number(self, index: Tensor) -> Tensor:
        return index if self._kept is None else self._kept[index]

    def read_ahead(self, index: Tensor) -> None:
        """Begins to read the pairs that the next `batch` will ask for, if they are on disk."""
        if self._rows is not None:
            wanted = self._number(index).cpu()
            self._ahead = wanted, _READER.submit(self._rows.read, wanted)

    def _images(self, index: Tensor) -> Tensor:
        if self._x1 is not None:
            return self._x1[index]
        assert self._rows is not None
        wanted, ahead = index.cpu(), self._ahead
        if ahead is not None and torch.equal(ahead[0], wanted):
            rows = ahead[1].result()
        else:
            rows = self._rows.read(wanted)
        return rows.to(self._device, non_blocking=True)


def numbers(pairs: PairSet) -> int:
    """Pixels times channels of all images of a set."""
    return pairs.count * pairs.image.channels * pairs.image.size**2


def fits(pairs: PairSet, device: torch.device) -> bool:
    """Whether x1 of a set is kept in the device's memory."""
    limit = float(CPU_BYTES)
    if device.type == "cuda":
        limit = CUDA_SHARE * torch.cuda.mem_get_info(device)[0]
    return 2 * numbers(pairs) <= limit
