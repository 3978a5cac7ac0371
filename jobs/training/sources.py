"""Pairs and images of the store as the batches of a step, on the training device.

What is stored is kept on the device where it fits there; a larger set stays on disk and the next
step's part of it is read while this one computes. x0 of pairs is regenerated from (seed, index).
Where all of it fits in memory beside x1 it is made once, since drawing it again every step would
only cost time. Of pairs made elsewhere it is stored.
"""

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset, LatentSet, PairSet
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.pairs.shards import (
    pair_labels,
    pair_noise,
    read_labels,
    read_noise,
    read_pairs,
    shard_rows,
)
from slimctl.jobs.storage.rows import FileRows
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import channels_first, load_part, part_rows
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.stream import INDEX, RowStream
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.pixels import to_float

CACHE_BYTES = 2**30
"""Noise up to this size is kept in memory."""
CHUNK = 4096
CPU_BYTES = 2**30
"""Pairs or images up to this size are kept in memory on a CPU."""
CUDA_SHARE = 0.5
"""Share of a GPU's free memory up to which they are kept there."""
CPU = torch.device("cpu")


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
        self._stream: RowStream | None = None
        self._kept: dict[str, Tensor] = {}
        """What is stored, and labels, by column, where they are on the device."""
        self._drawn: Tensor | None = None
        resident = fits(pair_bytes(pairs), device)
        self._home = device if resident else CPU
        """Where the pairs are chosen."""
        drawn = pairs.noise != "stored"
        if drawn:
            _check_generator(pairs)
        label = self._labels(store, drawn=drawn)
        if resident:
            self._kept["x1"] = read_pairs(store, pairs).to(device)
            if not drawn:
                self._kept["x0"] = read_noise(store, pairs).to(device)
            if label is not None:
                self._kept["label"] = label
        else:
            columns: dict[str, FileRows | Tensor] = {"x1": shard_rows(store, pairs)}
            if not drawn:
                columns["x0"] = shard_rows(store, pairs, "x0")
            if label is not None:
                columns["label"] = label
            self._stream = RowStream(columns, device)
        if drawn and 4 * numbers(pairs) <= CACHE_BYTES:
            self._drawn = _all_noise(pairs, device)
        self._chosen = None if labels is None else self._of_labels(label, labels)
        self.count = pairs.count if self._chosen is None else len(self._chosen)

    def _labels(self, store: Store, *, drawn: bool) -> Tensor | None:
        """Labels of all pairs, where the pairs are chosen."""
        pairs = self._pairs
        if drawn:
            index = torch.arange(pairs.count, device=self._home)
            return pair_labels(pairs.seed, index, pairs)
        label = read_labels(store, pairs)
        return None if label is None else label.to(self._home)

    def _of_labels(self, label: Tensor | None, labels: tuple[int, ...]) -> Tensor:
        """Numbers of the pairs that have one of the labels."""
        kept = torch.empty(0)
        if label is not None:
            wanted = torch.tensor(labels, device=label.device)
            kept = torch.isin(label, wanted).nonzero().squeeze(1)
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
        if self._stream is None:
            rows = {name: kept[index] for name, kept in self._kept.items()}
        else:
            rows = self._stream.take(index)
            index = rows[INDEX]
        x0 = rows["x0"] if "x0" in rows else self._noise(index)
        return x0, rows["x1"].float(), rows.get("label")

    def of_step(
        self, draws: Draws, step: int, *, flip: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The batch that is drawn for a step, every other pair mirrored if `flip`.

        What is taken from the disk next is read meanwhile.
        """
        x0, x1, label = self.batch(draws.samples(step, self.count, self._home))
        if self._stream is not None:
            following, its_step = draws.following(step)
            self.read_ahead(following.samples(its_step, self.count, self._home))
        if flip:
            flips = draws.flips(step)
            x0, x1 = mirror(x0, flips), mirror(x1, flips)
        return x0, x1, label

    def _noise(self, index: Tensor) -> Tensor:
        if self._drawn is None:
            return pair_noise(self._pairs.seed, index, self._pairs.image)
        return self._drawn[index]

    def _number(self, index: Tensor) -> Tensor:
        index = index.to(self._home)
        return index if self._chosen is None else self._chosen[index]

    def read_ahead(self, index: Tensor) -> None:
        """Begins to read the pairs that the next `batch` will ask for, if they are on disk."""
        if self._stream is not None:
            self._stream.read_ahead(self._number(index))


def _check_generator(pairs: PairSet) -> None:
    """Raises UserError where this program cannot draw a set's noise."""
    if pairs.generator_version != GENERATOR_VERSION:
        raise UserError(
            pairs.id,
            f"version {pairs.generator_version} of the random numbers made its noise, which "
            f"this program, with version {GENERATOR_VERSION}, cannot draw again",
            "generate the pairs again, or train with the program that made them",
        )


def _all_noise(pairs: PairSet, device: torch.device) -> Tensor:
    """x0 of every pair, in pieces that need little more memory."""
    index = torch.arange(pairs.count, device=device)
    return torch.cat([pair_noise(pairs.seed, p, pairs.image) for p in torch.split(index, CHUNK)])


def numbers(pairs: PairSet) -> int:
    """Pixels times channels of all images of a set."""
    return pairs.count * pairs.image.channels * pairs.image.size**2


def pair_bytes(pairs: PairSet) -> int:
    """Bytes of what is stored of a set."""
    return (6 if pairs.noise == "stored" else 2) * numbers(pairs)


def image_bytes(data: Dataset | LatentSet) -> int:
    """Bytes of a data set's images, or of its latents."""
    each = 2 if isinstance(data, LatentSet) else 1
    return each * data.count * data.image.channels * data.image.size**2


def fits(size: int, device: torch.device) -> bool:
    """Whether so many bytes of data are kept in the device's memory."""
    limit = float(CPU_BYTES)
    if device.type == "cuda":
        limit = CUDA_SHARE * torch.cuda.mem_get_info(device)[0]
    return size <= limit


class ImageSource:
    """The real images of a data set, or its latents, and their labels where the model wants some.

    Raises:
        UserError: there is no image of these labels.
        DamagedArtifact: the file is not what its manifest says.
    """

    def __init__(
        self,
        store: Store,
        data: Dataset | LatentSet,
        device: torch.device,
        labels: tuple[int, ...] | None,
        *,
        conditional: bool,
    ) -> None:
        resident = fits(image_bytes(data), device)
        self._latents = isinstance(data, LatentSet)
        self._home = device if resident else CPU
        self._stream: RowStream | None = None
        self._chosen: Tensor | None = None
        if resident:
            images, label = load_part(store, data, labels, conditional=conditional)
            self._images = images.to(device)
            self._label = None if label is None else label.to(device)
            self.count = len(images)
            return
        part = part_rows(store, data, labels)
        columns: dict[str, FileRows | Tensor] = {"images": part.rows}
        if conditional and part.label is not None:
            columns["label"] = part.label
        self._stream, self._chosen, self.count = RowStream(columns, device), part.index, part.count

    def of_step(self, draws: Draws, step: int, *, flip: bool) -> tuple[Tensor, Tensor | None]:
        """Images float32 (B, C, H, W), some mirrored if `flip`, and their labels int64 (B,).

        What is taken from the disk next is read meanwhile.
        """
        index = draws.samples(step, self.count, self._home)
        if self._stream is None:
            images, label = self._images[index], None if self._label is None else self._label[index]
        else:
            rows = self._stream.take(self._number(index))
            images, label = rows["images"], rows.get("label")
            images = images if self._latents else channels_first(images)
            following, its_step = draws.following(step)
            ahead = following.samples(its_step, self.count, self._home)
            self._stream.read_ahead(self._number(ahead))
        x1 = images.float() if self._latents else to_float(images)
        return mirror(x1, draws.flips(step)) if flip else x1, label

    def _number(self, index: Tensor) -> Tensor:
        return index if self._chosen is None else self._chosen[index]
