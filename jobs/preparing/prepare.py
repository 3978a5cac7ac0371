"""From a source to shards: on a pool of actors, or in this process where that is all there is."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import ShardFile
from slimctl.jobs.base.cluster import NodeSize
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.archives import Labels, number_labels
from slimctl.jobs.data.collect import check_refused, check_sizes, in_words
from slimctl.jobs.data.index import Index
from slimctl.jobs.data.loaded import check_classes
from slimctl.jobs.data.parquet import first_tables, look, table_labels
from slimctl.jobs.data.pixels import decode
from slimctl.jobs.data.read import folder_labels
from slimctl.jobs.data.source import ImageSource
from slimctl.jobs.pairs.pool import Life, Pool, start_actors
from slimctl.jobs.preparing.pieces import Preparation
from slimctl.jobs.preparing.shards import (
    Layout,
    ShardRecord,
    find_shard,
    make_shard,
    refusals,
    write_images,
    write_shard,
)

SHARD_BYTES = 32 * 2**20
"""Of the images of a shard, about: an actor holds one, and its file while it is written."""
TRIED = 1000
"""Images of which one has to be readable, to learn the size of all where none is asked for."""


@dataclass(frozen=True)
class Prepared:
    """A source in shards."""

    shards: tuple[ShardFile, ...]
    counts: tuple[int, ...]
    """Images of each."""
    side: int
    channels: int
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    skipped: str
    """Which images were left out, in words."""


class PrepareActor:
    """Looks into pieces of a source (negative items) and makes shards, one at a time.

    Its calls run in two threads: while one writes a shard, the other may decode the next.
    """

    def __init__(self, preparation: Preparation, layout: Layout | None, threads: int) -> None:
        self._preparation, self._layout, self._threads = preparation, layout, threads
        self._working = Lock()

    def ready(self) -> Life:
        """Answers at once: nothing has to be loaded."""
        return Life.here()

    def make(self, item: int) -> ShardRecord | None:
        """Makes a shard that is not there yet and writes it; or looks into piece -1 - item.

        Raises:
            UserError: the source cannot be used.
        """
        preparation, layout = self._preparation, self._layout
        if item < 0 or layout is None:
            with self._working:
                preparation.index(-1 - item)
            return None
        found = find_shard(preparation, item)
        if found is not None:
            return found
        with self._working:
            started = time.perf_counter()
            made = make_shard(preparation, layout, item, self._threads)
            seconds = time.perf_counter() - started
        return write_shard(preparation, item, *made, seconds)


def prepare(
    context: JobContext, preparation: Preparation, max_images: int | None, actors: int
) -> Prepared:
    """Prepares the first `max_images` images of a source; goes on where an attempt ended.

    Args:
        context: of the job.
        preparation: what is asked.
        max_images: None = all.
        actors: that do it; 1 = this process does.

    Raises:
        UserError: the source, labels or images cannot be used as asked.
        JobFailed: a shard kills its actor whenever it runs alone.
    """
    pieces = range(preparation.pieces)
    new = [-1 - piece for piece in pieces if not preparation.has_index(piece)]
    _run(context, preparation, None, new, actors, lambda item, made: None)
    layout, labels, names = _lay_out(preparation, max_images)
    records = {shard: find_shard(preparation, shard) for shard in range(layout.shards)}
    missing = [shard for shard, record in records.items() if record is None]
    if len(missing) < len(records):
        context.log(f"{len(records) - len(missing)} of {len(records)} shards are there already")

    def done(shard: int, record: ShardRecord | None) -> None:
        records[shard] = record
        made = sum(len(layout.rows(each)) for each, found in records.items() if found)
        context.progress(made, layout.total)

    _run(context, preparation, layout, missing, actors, done)
    kept = [record for record in records.values() if record is not None]
    context.device_s = sum(record.seconds for record in kept)
    context.engine |= {"actors": actors, "shards": layout.shards}
    return _finished(preparation, layout, kept, labels, names)


def _run(
    context: JobContext,
    preparation: Preparation,
    layout: Layout | None,
    items: list[int],
    actors: int,
    on_done: Callable[[int, Any], None],
) -> None:
    if not items:
        return
    size = min(actors, len(items))
    if size == 1:
        worker = PrepareActor(preparation, layout, context.threads)
        for item in items:
            on_done(item, worker.make(item))
        return
    import ray  # noqa: PLC0415

    handles = start_actors(PrepareActor, NodeSize(cpus=1), size, preparation, layout, 1)
    try:
        Pool[int](handles, context.job, _describe).run(items, on_done)
    finally:
        for handle in handles:
            ray.kill(handle)


def _describe(item: int) -> str:
    return f"file {-1 - item} of the source" if item < 0 else f"shard {item}"


def _lay_out(
    preparation: Preparation, max_images: int | None
) -> tuple[Layout, NDArray[np.int64] | None, tuple[str, ...]]:
    """How many images there are, their labels, and how they are cut into shards."""
    indexes = [preparation.index(piece) for piece in range(preparation.pieces)]
    counts = tuple(map(len, indexes))
    total = min(sum(counts), max_images or sum(counts))
    source, rules = preparation.source, preparation.rules
    if not total:
        raise UserError(str(source.root), "holds no images", "name a source with images")
    found = _labels(source, indexes, total) if preparation.labels else None
    labels, names = found or (None, ())
    side = rules.size or _first_side(preparation, counts, total)
    channels = rules.channels or 3
    size = max(1, SHARD_BYTES // (side * side * channels))
    return (
        Layout(counts=counts, total=total, side=side, channels=channels, size=size),
        labels,
        names,
    )


def _labels(source: ImageSource, indexes: list[Index], total: int) -> Labels | None:
    """The labels of the first images of a source; None = it has none."""
    cut = total < sum(map(len, indexes))
    if source.reader == "images":
        return folder_labels(source, total)
    if source.reader not in ("parquet", "arrow"):
        return number_labels(source, indexes, total, cut=cut)
    tables = first_tables([look(path, source.label) for path in source.files], total)
    labels = table_labels(tables, str(source.root), cut=cut)
    return None if labels is None else (labels, tables[0].class_names)


def _first_side(preparation: Preparation, counts: tuple[int, ...], total: int) -> int:
    """Height and width of the first image that can be read, px."""
    reason: Exception | None = None
    for item in preparation.items(0, min(TRIED, total), counts):
        try:
            return len(decode(item.data, preparation.rules).values)
        except Exception as error:  # noqa: BLE001  (named, with all others, by its shard)
            reason = reason or error
    where = str(preparation.source.root)
    raise UserError(where, f"none of its first images can be used ({reason})", "fetch it again")


def _finished(
    preparation: Preparation,
    layout: Layout,
    records: list[ShardRecord],
    labels: NDArray[np.int64] | None,
    names: tuple[str, ...],
) -> Prepared:
    """Checks the images of all shards together."""
    where, rules = str(preparation.source.root), preparation.rules
    refused = list(chain.from_iterable(map(refusals, records)))
    sizes = Counter[tuple[int, int]]()
    for record in records:
        sizes.update({(width, height): number for width, height, number in record.sizes})
    if rules.broken == "fail" or not sizes:
        check_refused(refused, layout.total, where)
    check_sizes(sizes, rules, where)
    if labels is not None and refused:
        labels = labels[_kept(layout, records)]
        check_classes(labels, names, where, cut=False)
    channels = layout.channels
    if rules.channels is None and all(record.all_grey for record in records):
        records, channels = [_narrow(preparation, *each) for each in enumerate(records)], 1
    full = [(record.file, record.count) for record in records if record.file is not None]
    return Prepared(
        shards=tuple(file for file, _ in full),
        counts=tuple(count for _, count in full),
        side=layout.side,
        channels=channels,
        labels=labels,
        class_names=names,
        skipped=in_words(refused, layout.total) if refused else "",
    )


def _kept(layout: Layout, records: Iterable[ShardRecord]) -> NDArray[np.bool_]:
    kept = np.ones(layout.total, np.bool_)
    for shard, record in enumerate(records):
        kept[[layout.rows(shard)[place] for place, *_ in record.refused]] = False
    return kept


def _narrow(preparation: Preparation, shard: int, record: ShardRecord) -> ShardRecord:
    """The shard with one channel: that all images are grey is known only at the end."""
    if record.file is None:
        return record
    images = load_file(preparation.store.shard(record.file))["images"]
    grey = images[..., :1].numpy()
    return record.model_copy(update={"file": write_images(preparation, shard, grey)})
