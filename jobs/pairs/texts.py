"""Embedding prompts in shards on a pool of Ray actors, each written once.

Shard and batch bounds are functions of the number of a prompt, so any number of actors, in any
order, after any crash, writes the same bytes.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from slimctl.jobs.base.artifacts import EncoderFiles, PromptSet, ShardFile
from slimctl.jobs.base.cluster import NodeSize
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.failures import classified
from slimctl.jobs.pairs.pool import Life, Pool, start_actors
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.texts import DTYPES, open_encoders, read_texts
from slimctl.models.conditions import Embedded
from slimctl.models.spec import Spec

BATCH = 32
"""Prompts encoded at once."""


@dataclass(frozen=True)
class TextRecipe:
    """Decides every row of a set of embedded prompts."""

    series: str
    """Id of the result."""
    prompts: PromptSet
    encoder: EncoderFiles
    dtype: str
    shard_size: int

    @property
    def shards(self) -> int:
        """Their number."""
        return -(-self.prompts.count // self.shard_size)


class TextShard(Spec):
    """What is known of a finished shard."""

    file: ShardFile
    cut: int
    """Prompts that were too long."""
    seconds: float


def keep_encoder(
    store: Store, series: str, folder: Path, files: tuple[Path, ...]
) -> list[ShardFile]:
    """Copies the files of an encoder beside the shards; those that are there are left alone."""
    kept = []
    for file in files:
        path = f"prompts/{series}/encoder/{file.relative_to(folder).as_posix()}"
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        size = file.stat().st_size
        if store.blobs.size(path) != size:
            with file.open("rb") as opened:
                store.blobs.write(path, _pieces(opened))
        kept.append(ShardFile(path=path, size=size, sha256=digest))
    return kept


def _pieces(opened: Any) -> Any:
    while piece := opened.read(2**24):
        yield memoryview(piece)


def tensors_of(text: Embedded, dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows as a shard holds them.

    Raises:
        ValueError: a number is beyond the type.
    """
    made = {"sequence": text.sequence.to(dtype).cpu()}
    if text.mask is not None:
        made["mask"] = text.mask.to(torch.uint8).cpu()
    if text.pooled is not None:
        made["pooled"] = text.pooled.to(dtype).cpu()
    if not all(bool(each.isfinite().all()) for each in made.values()):
        raise ValueError(f"embeddings are too large for {dtype}\n  fix: set dtype: float32")
    return made


class TextActor:
    """Embeds whole shards, one at a time."""

    def __init__(self, store: Store, recipe: TextRecipe, threads: int) -> None:
        torch.set_num_threads(threads)
        self._store = store
        self._recipe = recipe
        self._threads = threads
        self._texts: list[str] = []
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def ready(self) -> Life:
        """Answers once the prompts are read.

        Raises:
            DamagedArtifact: a file is not what its manifest says.
        """
        self._texts = read_texts(self._store, self._recipe.prompts)
        return Life.here()

    def make(self, shard: int) -> TextShard:
        """Makes one shard and writes it; a shard that is there already is left alone.

        Raises:
            UserError: the encoders cannot be read, or fit no float16.
            OutOfMemory, BadDevice: its GPU has too little memory, or failed.
        """
        found = find_shard(self._store, self._recipe, shard)
        if found is not None:
            return found
        torch.set_num_threads(self._threads)
        recipe = self._recipe
        first = shard * recipe.shard_size
        texts = self._texts[first : first + recipe.shard_size]
        with classified(""):
            return make_shard(self._store, recipe, shard, texts, self._device)


def make_shard(
    store: Store, recipe: TextRecipe, shard: int, texts: list[str], device: str
) -> TextShard:
    """Embeds the prompts of a shard and writes it, then its record.

    Raises:
        UserError: the encoders cannot be read, or their numbers are too large.
    """
    started = time.perf_counter()
    encoders = open_encoders(store, recipe.encoder, device)
    before = encoders.cut
    rows: list[Mapping[str, Tensor]] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # prompts that are cut are counted
            for at in range(0, len(texts), BATCH):
                made = encoders.encode(texts[at : at + BATCH])
                rows.append(tensors_of(made, DTYPES[recipe.dtype]))
    except ValueError as error:
        raise UserError(recipe.encoder.pipeline, *what_and_fix(error)) from error
    data = save({name: torch.cat([each[name] for each in rows]) for name in rows[0]})
    name = _name(recipe, shard)
    store.blobs.write(f"{name}.safetensors", data)
    file = ShardFile(
        path=f"{name}.safetensors", size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    seconds = time.perf_counter() - started
    record = TextShard(file=file, cut=encoders.cut - before, seconds=seconds)
    store.blobs.write(f"{name}.json", seal(record.model_dump()))
    return record


def _name(recipe: TextRecipe, shard: int) -> str:
    return f"prompts/{recipe.series}/shard-{shard:06d}"


def find_shard(store: Store, recipe: TextRecipe, shard: int) -> TextShard | None:
    """The record of a finished shard whose file has the recorded size; None if there is none."""
    try:
        record = TextShard.model_validate(unseal(store.blobs.read(f"{_name(recipe, shard)}.json")))
    except (FileNotFoundError, ValueError):
        return None
    return record if store.blobs.size(record.file.path) == record.file.size else None


def embed(context: JobContext, recipe: TextRecipe, actors: int) -> list[TextShard]:
    """Makes all shards, reusing those that exist.

    Raises:
        JobFailed: a shard kills its actor whenever it runs alone; all others are written.
    """
    import ray  # noqa: PLC0415

    records = {at: find_shard(context.store, recipe, at) for at in range(recipe.shards)}
    missing = [at for at, record in records.items() if record is None]
    if missing:
        handles = _start_actors(context, recipe, min(actors, len(missing)))

        def keep(shard: int, record: TextShard) -> None:
            records[shard] = record
            done = sum(each is not None for each in records.values()) * recipe.shard_size
            context.progress(min(done, recipe.prompts.count), recipe.prompts.count)

        try:
            Pool[int](handles, context.job).run(missing, keep)
        finally:
            for handle in handles:
                ray.kill(handle)
    done = [record for record in records.values() if record is not None]
    context.device_s = sum(record.seconds for record in done)
    return done


def _start_actors(context: JobContext, recipe: TextRecipe, size: int) -> list[Any]:
    on_gpus = context.cluster.gpus > 0
    part = NodeSize(cpus=0, gpus=1) if on_gpus else NodeSize(cpus=1)
    threads = min(4, os.cpu_count() or 1) if on_gpus else 1
    return start_actors(TextActor, part, size, context.store, recipe, threads)
