"""Writes pairs that were made elsewhere into shards that hold their noise and labels too."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from slimctl.jobs.base.artifacts import ShardFile
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.pairs.arrays import PairArrays, rows


def store_pairs(
    context: JobContext, series: str, opened: Sequence[PairArrays], shard_size: int
) -> tuple[ShardFile, ...]:
    """Writes all pairs, `shard_size` a shard: x0 float32, x1 float16, label int64.

    Args:
        context: of the job; its progress counts pairs.
        series: folder of the shards below `pairs/`.
        opened: the pairs.
        shard_size: pairs per shard; the last one may hold fewer.
    """
    total, files = sum(len(one) for one in opened), []
    for first in range(0, total, shard_size):
        last = min(total, first + shard_size)
        noise, images, labels = rows(opened, first, last)
        tensors: dict[str, NDArray[Any]] = {"x0": noise, "x1": images.astype(np.float16)}
        data = save(tensors if labels is None else tensors | {"label": labels})
        path = f"pairs/{series}/shard-{first // shard_size:06d}.safetensors"
        context.store.blobs.write(path, data)
        digest = hashlib.sha256(data).hexdigest()
        files.append(ShardFile(path=path, size=len(data), sha256=digest))
        context.progress(last, total)
    return tuple(files)
