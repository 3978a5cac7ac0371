"""Pairs and images of the store as the batches of a step, on the training device.

What is stored of pairs is kept on the device where it fits there; a larger set stays on disk and
the next step's part of it is read while this one computes. x0 is regenerated from (seed, index).
Where all of it fits in memory beside x1 it is made once, since drawing it again every step would
only cost time. Of pairs made elsewhere it is stored.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset, PairSet
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.pairs.shards import (
    ShardRows,
    pair_labels,
    pair_noise,
    read_labels,
    read_noise,
    read_pairs,
)
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_part
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.pixels import to_float

CACHE_BYTES = 2**30
"""Noise up to this size is kept in memory."""
CHUNK = 4096
CPU_BYTES = 2**30
"""Pairs up to this size are kept in memory on a CPU."""
CUDA_SHARE = 0.25
"""Share of a GPU's free memory up to which pairs are kept there; untested on CUDA."""
_Stored = Literal["x0", "x1"]
_Rows = dict[_Stored, Tensor]
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
        self._stored: dict[_Stored, Tensor | ShardRows] = {}
        """What is not drawn again, in memory or on disk."""
        self._drawn: Tensor | None = None
        self._ahead: tuple[Tensor, Future[_Rows]] | None = None
        kept = fits(pairs, device)
        self._stored["x1"] = (
            read_pairs(store, pairs).to(device) if kept else ShardRows(store, pairs)
        )
        if pairs.noise == "stored":
            noise = read_noise(store, pairs).to(device) if kept else ShardRows(store, pairs, "x0")
            self._stored["x0"] = noise
            label = read_labels(store, pairs)
            self._label = None if label is None else label.to(device)
        else:
            self._regenerate(pairs, device)
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
            self._drawn = torch.cat(chunks)

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
        rows = self._rows(index)
        label = None if self._label is None else self._label[index]
        x0 = rows["x0"] if "x0" in rows else self._noise(index)
        return x0, rows["x1"].float(), label

    def of_step(
        self, draws: Draws, step: int, *, flip: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch that is drawn for a step, every other pair mirrored if `flip`.

        What is taken from the disk next is read meanwhile.
        """
        x0, x1, label = self.batch(draws.samples(step, self.count))
        following, its_step = draws.following(step)
        self.read_ahead(following.samples(its_step, self.count))
        if flip:
            flips = draws.flips(step)
            x0, x1 = mirror(x0, flips), mirror(x1, flips)
        return x0, x1, label

    def _noise(self, index: Tensor) -> Tensor:
        if self._drawn is None:
            return pair_noise(self._pairs.seed, index, self._pairs.image)
        return self._drawn[index]

    def _number(self, index: Tensor) -> Tensor:
        return index if self._kept is None else self._kept[index]

    def read_ahead(self, index: Tensor) -> None:
        """Begins to read the pairs that the next `batch` will ask for, if they are on disk."""
        on_disk = self._on_disk()
        if on_disk:
            wanted = self._number(index).cpu()
            self._ahead = wanted, _READER.submit(_read, on_disk, wanted)

    def _on_disk(self) -> dict[_Stored, ShardRows]:
        return {name: rows for name, rows in self._stored.items() if isinstance(rows, ShardRows)}

    def _rows(self, index: Tensor) -> _Rows:
        """The stored tensors of the pairs `index` of the set, on the device."""
        found = {n: rows[index] for n, rows in self._stored.items() if isinstance(rows, Tensor)}
        on_disk = self._on_disk()
        if on_disk:
            wanted, ahead = index.cpu(), self._ahead
            if ahead is not None and torch.equal(ahead[0], wanted):
                rows = ahead[1].result()
            else:
                rows = _read(on_disk, wanted)
            found |= {n: part.to(self._device, non_blocking=True) for n, part in rows.items()}
        return found


def _read(on_disk: dict[_Stored, ShardRows], index: Tensor) -> _Rows:
    return {name: rows.read(index) for name, rows in on_disk.items()}


def numbers(pairs: PairSet) -> int:
    """Pixels times channels of all images of a set."""
    return pairs.count * pairs.image.channels * pairs.image.size**2


def fits(pairs: PairSet, device: torch.device) -> bool:
    """Whether what is stored of a set is kept in the device's memory."""
    limit = float(CPU_BYTES)
    if device.type == "cuda":
        limit = CUDA_SHARE * torch.cuda.mem_get_info(device)[0]
    return (6 if pairs.noise == "stored" else 2) * numbers(pairs) <= limit


class ImageSource:
    """The real images of a data set, and their labels where the model wants some."""

    def __init__(
        self,
        store: Store,
        data: Dataset,
        device: torch.device,
        labels: tuple[int, ...] | None,
        *,
        conditional: bool,
    ) -> None:
        images, label = load_part(store, data, labels, conditional=conditional)
        self._images = images.to(device)
        self._label = None if label is None else label.to(device)

    def of_step(self, draws: Draws, step: int, *, flip: bool) -> tuple[Tensor, Tensor | None]:
        """Images float32 (B, C, H, W), some mirrored if `flip`, and their labels int64 (B,)."""
        index = draws.samples(step, len(self._images))
        x1 = to_float(self._images[index])
        if flip:
            x1 = mirror(x1, draws.flips(step))
        return x1, None if self._label is None else self._label[index]
