"""The files of a source, looked into once: how many images each has, and their labels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from slimctl.jobs.data.archives import archive_items, index_archive
from slimctl.jobs.data.collect import Item
from slimctl.jobs.data.index import Index
from slimctl.jobs.data.parquet import look, table_items
from slimctl.jobs.data.pixels import PixelRules
from slimctl.jobs.data.source import ImageSource
from slimctl.jobs.storage.store import Store

FILES_AT_ONCE = 20_000
"""Files of a folder of images that count as one piece."""


@dataclass(frozen=True)
class Preparation:
    """All that decides the shards of a source, by pickle."""

    store: Store
    artifact_id: str
    source: ImageSource
    rules: PixelRules
    labels: bool
    _indexes: dict[int, Index] = field(default_factory=dict, compare=False, repr=False)
    """The index that was asked for last."""

    def __reduce__(self) -> tuple[type["Preparation"], tuple[object, ...]]:
        asked = (self.store, self.artifact_id, self.source, self.rules, self.labels)
        return Preparation, asked

    @property
    def pieces(self) -> int:
        """Files, or parts of a long list of them."""
        if self.source.reader == "images":
            return -(-len(self.source.files) // FILES_AT_ONCE)
        return len(self.source.places)

    def index(self, piece: int) -> Index:
        """Where the images of a piece are; found once by whoever asks first.

        Raises:
            UserError: the file is damaged, or holds what it should not.
        """
        if piece not in self._indexes:
            found = self._read(piece)
            if found is None:
                found = self._look(piece)
                self.store.work(self.artifact_id).write(_index_name(piece), _to_bytes(found))
            self._indexes.clear()
            self._indexes[piece] = found
        return self._indexes[piece]

    def has_index(self, piece: int) -> bool:
        """Whether it was found before."""
        return self.store.work(self.artifact_id).exists(_index_name(piece))

    def _read(self, piece: int) -> Index | None:
        try:
            return _from_bytes(self.store.work(self.artifact_id).read(_index_name(piece)))
        except (FileNotFoundError, SafetensorError, ValueError, KeyError):
            return None

    def _look(self, piece: int) -> Index:
        source = self.source
        if source.reader == "images":
            first = piece * FILES_AT_ONCE
            files = source.files[first : first + FILES_AT_ONCE]
            names = tuple(str(path.relative_to(source.root)) for path in files)
            return Index(names, np.empty((0, 0), np.int64))
        if source.reader in ("parquet", "arrow"):
            rows = look(source.files[piece], source.label).rows
            return Index(("",) * rows, np.empty((0, 0), np.int64))
        return index_archive(source, source.places[piece], labels=self.labels)

    def items(self, first: int, last: int, counts: tuple[int, ...]) -> Iterator[Item]:
        """The images `first`..`last` - 1 of the source; `counts` has those of each piece."""
        ends = list(accumulate(counts))
        found = []
        for piece, (end, count) in enumerate(zip(ends, counts, strict=True)):
            start = end - count
            rows = range(max(first, start) - start, min(last, end) - start)
            if rows:
                found.append(self._items(piece, rows))
        return chain.from_iterable(found)

    def _items(self, piece: int, rows: range) -> Iterator[Item]:
        source = self.source
        if source.reader in ("parquet", "arrow"):
            yield from table_items(look(source.files[piece], source.label), rows)
            return
        index = self.index(piece)
        if source.reader == "images":
            for row in rows:
                yield Item(index.names[row], source.root / index.names[row])
            return
        yield from archive_items(source.reader, source.places[piece], index, rows)


def _index_name(piece: int) -> str:
    return f"index/piece-{piece:06d}.safetensors"


def _to_bytes(index: Index) -> bytes:
    text = json.dumps([index.names, index.labels]).encode()
    tensors = {"places": torch.from_numpy(index.places)}
    return save(tensors | {"text": torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def _from_bytes(data: bytes) -> Index:
    tensors = load(data)
    names, labels = json.loads(tensors["text"].numpy().tobytes())
    places = tensors["places"].numpy()
    return Index(tuple(names), places, None if labels is None else tuple(labels))
