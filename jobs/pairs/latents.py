"""Encoding a data set: shards of latents, each written once, on a pool of actors or here.

A shard holds `x1` float16 (n, C, H, W), the means of what the encoder says of the images
first..first + n - 1; its record is written after it, so any number of actors, after any crash,
writes the same files.
"""

import time
from dataclasses import dataclass
from threading import Lock

import torch
from safetensors import safe_open

from slimctl.jobs.base.artifacts import Autoencoder, Dataset
from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.turns import computing
from slimctl.jobs.pairs.pool import Life, Pool, describe_device, start_actors
from slimctl.jobs.pairs.shards import ShardRecord, find_record, write_tensors
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import channels_first
from slimctl.models.networks.autoencoder.network import Autoencoder as Runnable
from slimctl.models.pixels import to_float


@dataclass(frozen=True)
class LatentRecipe:
    """Decides every latent of a set, by pickle."""

    store: Store
    artifact_id: str
    """Of the set."""
    data: Dataset
    autoencoder: Autoencoder
    shard_size: int
    batch_size: int

    @property
    def shards(self) -> int:
        """Their number; the last one may hold fewer."""
        return -(-self.data.count // self.shard_size)

    def name(self, shard: int) -> str:
        """Path of a shard inside the storage, without its ending."""
        return f"pairs/{self.artifact_id}/shard-{shard:06d}"

    def find(self, shard: int) -> ShardRecord | None:
        """The record of a shard that is there."""
        return find_record(self.store, self.name(shard))

    def describe(self, shard: int) -> str:
        """A shard with the numbers of its images."""
        first = shard * self.shard_size
        last = min(self.data.count, first + self.shard_size) - 1
        return f"shard {shard} (images {first} to {last})"


@torch.inference_mode()
def encode_shard(
    recipe: LatentRecipe, autoencoder: Runnable, shard: int, device: torch.device, place: str
) -> ShardRecord:
    """Encodes the images of a shard and writes it.

    Raises:
        FloatingPointError: latents are not finite in 16 bits.
        DamagedArtifact: the data's file is not what its manifest says.
    """
    started, first = time.perf_counter(), shard * recipe.shard_size
    with safe_open(recipe.store.file(recipe.data, recipe.data.file), "pt") as file:
        images = channels_first(file.get_slice("images")[first : first + recipe.shard_size])
    parts = []
    for batch in torch.split(images, recipe.batch_size):
        with computing():
            parts.append(autoencoder.encode(to_float(batch.to(device))).half().cpu())
    latents = torch.cat(parts)
    if not bool(latents.isfinite().all()):
        raise FloatingPointError(f"{recipe.describe(shard)}: latents hold NaN or infinity")
    seconds = time.perf_counter() - started
    tensors = {"x1": latents}
    return write_tensors(recipe.store, recipe.name(shard), tensors, 0.0, seconds, place)


class LatentActor:
    """Encodes whole shards, one at a time."""

    def __init__(self, recipe: LatentRecipe, threads: int) -> None:
        self._recipe = recipe
        self._threads = threads
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._kept: Runnable | None = None
        self._working = Lock()

    def ready(self) -> Life:
        """Answers once the autoencoder is loaded; here, since Ray hides a constructor's errors.

        Raises:
            UserError: the weights do not fit.
            DamagedArtifact: a file is not what its manifest says.
        """
        with self._working:
            self._opened()
        return Life.here()

    def _opened(self) -> Runnable:
        torch.set_num_threads(self._threads)
        if self._kept is None:
            recipe = self._recipe
            self._kept = open_autoencoder(recipe.store, recipe.autoencoder, self._device)
        assert self._kept is not None
        return self._kept

    def make(self, shard: int) -> ShardRecord:
        """Makes one shard and writes it; a shard that is there already is left alone."""
        with self._working:
            place = describe_device(self._device)
            found = self._recipe.find(shard)
            return found or encode_shard(self._recipe, self._opened(), shard, self._device, place)


def encode(context: JobContext, recipe: LatentRecipe, needs: Needs, most: int) -> list[ShardRecord]:
    """All shards of a set, on so many actors at most; those that are there are reused.

    Raises:
        JobFailed: a shard kills its actor whenever it runs alone; all others are written.
    """
    missing = [shard for shard in range(recipe.shards) if recipe.find(shard) is None]
    if len(missing) < recipe.shards:
        context.log(f"{recipe.shards - len(missing)} of {recipe.shards} shards are there already")
    done = recipe.shards - len(missing)

    def on_done(shard: int, record: ShardRecord) -> None:
        nonlocal done
        done += 1
        context.progress(min(done * recipe.shard_size, recipe.data.count), recipe.data.count)

    if missing and most > 1:
        import ray  # noqa: PLC0415

        threads = max(1, int(needs.part.cpus))
        handles = start_actors(LatentActor, needs.part, min(most, len(missing)), recipe, threads)
        try:
            Pool[int](handles, context.job, recipe.describe).run(missing, on_done)
        finally:
            for handle in handles:
                ray.kill(handle)
    elif missing:
        torch.set_num_threads(context.threads)
        device = torch.device(context.device)
        opened = open_autoencoder(context.store, recipe.autoencoder, device)
        assert opened is not None
        for shard in missing:
            on_done(shard, encode_shard(recipe, opened, shard, device, context.device))
    records = [record for shard in range(recipe.shards) if (record := recipe.find(shard))]
    context.device_s = sum(record.seconds for record in records)
    context.engine["devices"] = sorted({record.device for record in records})
    return records
