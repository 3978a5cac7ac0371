"""Prepares images of tar shards, against a bare loop of the same decoder and resizer.

Both in one process, in turn, by CPU time: what a machine that others use can measure; actors do
the same in as many processes as there are CPUs, and `--actors` times that by the clock. Then
batches are drawn from the shards on disk and from memory, in turn, and a very long list of files is
looked at twice.

    python -m benchmarks.datasets [--images 20000] [--listed 0] [--actors 0] [--json]
"""

import argparse
import io
import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import show, this_machine
from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training import sources
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import Share
from slimctl.jobs.training.sources import ImageSource

SIDE, SOURCE_SIDE, DIFFERENT = 64, 96, 500
"""Pixels of a prepared image and of a source image; images that are not copies of each other."""
BATCH, BATCHES = 128, 100
ROUNDS = 5
"""Turns of the bare loop and of the preparation."""


def encoded_images() -> list[bytes]:
    """JPEGs of smooth random colours with noise, as photographs are."""
    found, rng = [], np.random.default_rng(0)
    for _ in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(coarse.resize((SOURCE_SIDE, SOURCE_SIDE), Image.Resampling.BICUBIC))
        noisy = smooth + rng.normal(0, 6, smooth.shape)
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


def write_shards(folder: Path, count: int, shards: int, images: Sequence[bytes]) -> None:
    """Tar shards with `.jpg` and `.cls`."""
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as file:
            for number in range(shard * count // shards, (shard + 1) * count // shards):
                label = str(number % 10).encode()
                for ending, data in (("jpg", images[number % DIFFERENT]), ("cls", label)):
                    info = tarfile.TarInfo(f"{number:08d}.{ending}")
                    info.size = len(data)
                    file.addfile(info, io.BytesIO(data))


def bare_loop(images: Sequence[bytes], count: int) -> None:
    """The same decoder and resizer on bytes in memory, and nothing else."""
    for number in range(count):
        image = Image.open(io.BytesIO(images[number % DIFFERENT])).convert("RGB")
        np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0))


def prepared(folder: Path, store: Path, actors: int) -> Dataset:
    """The shards in a store, prepared by so many actors; 0 = in this process."""
    spec = LoadDataset(source=str(folder), size=SIDE, channels=3, actors=max(1, actors))
    out = store / "out"
    out.mkdir(parents=True)
    made = Store(str(store))
    context = JobContext("data", "data-0", made, {}, out, Cluster(max(1, actors)))
    return spec._prepare(context, spec._find())  # noqa: SLF001  (whatever the size)


def _keep(data: list[Dataset], folder: Path, store: Path) -> None:
    data.append(prepared(folder, store, 0))


def cpu_s(work: Callable[[], object]) -> float:
    """CPU time of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def batch_times(store: Path, data: Dataset) -> dict[str, float]:
    """Milliseconds of CPU time of a batch, from memory and from disk, in turn."""
    from safetensors.torch import save_file

    handle = data.model_copy(update={"id": "data-0"})
    labels = torch.arange(data.count) % 10
    folder = store / "labels"
    folder.mkdir()
    save_file({"labels": labels}, folder / "data.safetensors")
    made = Store(str(store))
    manifest = {"kind": "load_dataset", "version": 1, "spec": {}, "inputs": {}}
    made.commit("data-0", handle, folder, manifest | {"wall_s": 0.0, "device_s": 0.0})
    found: dict[str, list[float]] = {"memory": [], "disk": []}
    opened, draws = {}, Draws(0, Share(0, BATCH, BATCH, torch.device("cpu")), data.image)
    for name, limit in (("memory", 2**40), ("disk", 0)):
        sources.CPU_BYTES = limit
        device = torch.device("cpu")
        opened[name] = ImageSource(made, handle, device, None, conditional=True)
    for turn in range(BATCHES):
        for name, source in opened.items():
            found[name].append(1000 * cpu_s(partial(source.of_step, draws, turn, flip=True)))
    return {name: statistics.median(times) for name, times in found.items()}


def listing(folder: Path, count: int) -> dict[str, float]:
    """Seconds to list and hash a folder of so many files for the first time, and again."""
    data = next(iter(encoded_images()))
    old = time.time() - 3600
    for number in range(count):
        path = folder / f"{number % 1000:03d}" / f"{number:07d}.jpg"
        if number < 1000:
            path.parent.mkdir(parents=True)
        path.write_bytes(data)
        os.utime(path, (old, old))
    spec = LoadDataset(source=str(folder), size=SIDE)
    found = {}
    for name in ("first", "again"):
        started = time.monotonic()
        spec.fingerprint()
        found[name] = time.monotonic() - started
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--images", type=int, default=20_000)
    asked.add_argument("--shards", type=int, default=100)
    asked.add_argument("--listed", type=int, default=0, help="files to list and hash; 0 = none")
    asked.add_argument("--actors", type=int, default=0, help="prepare by so many, too; 0 = no")
    asked.add_argument("--json", action="store_true")
    given = asked.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Any] = {**this_machine().describe(), "images": given.images}
    with tempfile.TemporaryDirectory() as name:
        root, images = Path(name), encoded_images()
        write_shards(root / "set", given.images, given.shards, images)
        prepared(root / "set", root / "warm", 0)  # imports, and the files into the system's cache
        data: list[Dataset] = []
        bare, ours = [], []
        for turn in range(ROUNDS):
            store = root / ("store" if turn == 0 else f"store-{turn}")
            bare.append(cpu_s(lambda: bare_loop(images, given.images)))
            ours.append(cpu_s(partial(_keep, data, root / "set", store)))
        ratios = [one / other for one, other in zip(bare, ours, strict=True)]
        found |= {"bare_us": [1e6 * each / given.images for each in bare]}
        found |= {"prepared_us": [1e6 * each / given.images for each in ours]}
        found |= {"ratio": statistics.median(ratios), "ratios": ratios}
        found["resident_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found["batch_ms"] = batch_times(root / "store", data[0])
        if given.actors:
            started = time.monotonic()
            prepared(root / "set", root / "pool", given.actors)
            found["pool_images_per_s"] = given.images / (time.monotonic() - started)
        if given.listed:
            found["listing_s"] = listing(root / "files", given.listed)
    show(found, as_json=given.json)


if __name__ == "__main__":
    main()
