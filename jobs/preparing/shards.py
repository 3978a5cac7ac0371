"""One shard of prepared images, written once."""

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slimctl.jobs.base.artifacts import ShardFile
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.collect import Gathered, Refusal, decode_all
from slimctl.jobs.preparing.pieces import Preparation
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.jobs.storage.tensors import safetensors_pieces
from slimctl.models.spec import Spec

FOLDER = "datasets"
"""Of the shards in a storage, beside `pairs`."""


class Layout(Spec):
    """How a source is cut into shards."""

    counts: tuple[int, ...]
    """Images of each piece of the source."""
    total: int
    """Images that are taken, from the first."""
    side: int
    """Height and width of an image, px."""
    channels: int
    size: int
    """Images of a shard; the last one has fewer."""

    @property
    def shards(self) -> int:
        """Their number."""
        return -(-self.total // self.size)

    def rows(self, shard: int) -> range:
        """The images of a shard, as the source counts them."""
        return range(shard * self.size, min(self.total, (shard + 1) * self.size))


class ShardRecord(Spec):
    """What became of the images of a shard."""

    file: ShardFile | None
    """None = no image can be used."""
    count: int
    """Images in it."""
    refused: tuple[tuple[int, str, str, str], ...]
    """Images that are not: place in the shard, name, reason and what to do."""
    sizes: tuple[tuple[int, int, int], ...]
    """Widths and heights that were found, px, and how often."""
    all_grey: bool
    seconds: float


def shard_name(artifact_id: str, shard: int) -> str:
    """Path of a shard inside the storage, without its ending."""
    return f"{FOLDER}/{artifact_id}/shard-{shard:06d}"


def find_shard(preparation: Preparation, shard: int) -> ShardRecord | None:
    """The record of a finished shard whose file has the recorded size; None if there is none."""
    work = preparation.store.work(preparation.artifact_id)
    try:
        record = ShardRecord.model_validate(unseal(work.read(f"shards/{shard:06d}.json")))
    except (FileNotFoundError, ValueError):
        return None
    file = record.file
    intact = file is None or preparation.store.blobs.size(file.path) == file.size
    return record if intact else None


def make_shard(
    preparation: Preparation, layout: Layout, shard: int, threads: int
) -> tuple[Gathered, Counter[tuple[int, int]]]:
    """Decodes the images of a shard; those that cannot be used are named, not raised.

    Raises:
        UserError: a file is damaged, or images differ in size where none is asked for.
    """
    rows = layout.rows(shard)
    items = preparation.items(rows.start, rows.stop, layout.counts)
    gathered, sizes = decode_all(items, len(rows), preparation.rules, layout.side, threads)
    others = [size for size in sizes if min(size) != layout.side]
    if preparation.rules.size is None and others:
        width, height = others[0]
        raise UserError(
            str(preparation.source.root),
            f"has images of {width} x {height} pixels beside those of {layout.side}",
            f"set size, such as size: {layout.side}",
        )
    return gathered, sizes


def write_shard(
    preparation: Preparation,
    shard: int,
    gathered: Gathered,
    sizes: Counter[tuple[int, int]],
    seconds: float,
) -> ShardRecord:
    """Writes a shard, then its record."""
    store, file = preparation.store, None
    if len(gathered.images):
        file = write_images(preparation, shard, gathered.images)
    places = np.flatnonzero(~gathered.kept).tolist()
    record = ShardRecord(
        file=file,
        count=len(gathered.images),
        refused=tuple(
            (place, *refusal) for place, refusal in zip(places, gathered.refused, strict=True)
        ),
        sizes=tuple((*size, number) for size, number in sizes.items()),
        all_grey=gathered.all_grey,
        seconds=seconds,
    )
    work = store.work(preparation.artifact_id)
    work.write(f"shards/{shard:06d}.json", seal(record.model_dump()))
    return record


def write_images(preparation: Preparation, shard: int, images: NDArray[Any]) -> ShardFile:
    """Writes the file of a shard: `images`, uint8 (n, side, side, channels)."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    pieces = list(safetensors_pieces({"images": tensor}))
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    path = f"{shard_name(preparation.artifact_id, shard)}.safetensors"
    preparation.store.blobs.write(path, pieces)
    size = sum(piece.nbytes for piece in pieces)
    return ShardFile(path=path, size=size, sha256=digest.hexdigest())


def refusals(record: ShardRecord) -> list[Refusal]:
    """The images of a shard that cannot be used."""
    return [Refusal(name, reason, fix) for _, name, reason, fix in record.refused]
