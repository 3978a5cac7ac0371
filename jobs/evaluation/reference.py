"""What samples are compared with: statistics of the real images, and some of their features.

Real images go through the feature network once per data set and network, in batches: the result is
kept in the store's `cache` folder, under a key of both ids, and any of it can be made again.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.evaluation.features import Features
from slimctl.jobs.storage.cache import Tensors, cached
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import image_batches, load_images
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian, RunningStatistics
from slimctl.models.metrics.nearest import own_distance
from slimctl.models.pixels import to_float

FLOOR_SEED = 0
FLOOR_DRAWS = (20, 100)
"""Fewest and most draws of real images whose distances make the floor. That of one draw varies
much: of 2000 of the digits its standard deviation is half its mean."""
FLOOR_WIDTHS = 6400
"""Draws times features, between these bounds: a distance of 2048 features takes seconds."""
BATCH = 1000
NEAREST_AMONG = 50_000
"""Real images among which the nearest one to a sample is looked for; more are drawn from."""
FORMAT = 3
"""Of the cache: raised when the same key would hold something else."""


@dataclass(frozen=True)
class RealImages:
    """What is measured of the real images, once for all models."""

    statistics: Gaussian
    """Of the features of all of them."""
    floor: Tensor
    """float64 (R,), Fréchet distances to the reference of as many images drawn with replacement as
    there are samples, of each draw."""
    features: Tensor
    """float32 (n, D) of some of them in random order."""
    nearest_rms: float
    """Median RMS pixel distance of an image to the nearest other one."""


def measure_real(
    store: Store,
    data: Dataset,
    features: FeatureNet,
    extract: Features,
    samples: int,
    kept: int,
    target: Gaussian | None = None,
) -> RealImages:
    """Measures the real images, or reads what an earlier evaluation measured.

    Each draw of the floor has `samples` images; at most `kept` features are kept. The floor is the
    distance to `target`, by default the statistics of the real images.
    """
    asked = f"{FORMAT} {data.id} {features.id} {samples} {kept} {_digest(target)}"

    def make() -> Tensors:
        draws = floor_draws(data.count, samples, features.dimensions)
        return _to_tensors(_measure(store, data, extract, draws, kept, target))

    return cached(store, "real", asked, make, _from_tensors)


def floor_draws(count: int, samples: int, width: int) -> Tensor:
    """Which of `count` real images each draw of the floor takes: int64 (R, samples).

    R is 100 up to 64 features, and 20 from 320 on.
    """
    fewest, most = FLOOR_DRAWS
    draws = min(most, max(fewest, FLOOR_WIDTHS // width))
    index = torch.arange(draws * samples)
    drawn = counter_random.integers(FLOOR_SEED, Stream.SUBSET, index, count)
    return drawn.view(draws, samples)


def _digest(target: Gaussian | None) -> str:
    if target is None:
        return ""
    held = hashlib.sha256(target.mean.cpu().numpy().tobytes())
    held.update(target.covariance.cpu().numpy().tobytes())
    return held.hexdigest()


def _measure(
    store: Store,
    data: Dataset,
    extract: Features,
    draws: Tensor,
    kept: int,
    target: Gaussian | None,
) -> RealImages:
    floors = [(torch.bincount(drawn, minlength=data.count), RunningStatistics()) for drawn in draws]
    wanted = random_subset(data.count, min(data.count, kept))
    place = torch.full((data.count,), -1)
    place[wanted] = torch.arange(len(wanted))
    rows: list[Tensor] = []
    all_of_them, first = RunningStatistics(), 0
    for images in image_batches(store, data, BATCH):
        found = extract.on_device(images)
        here = slice(first, first + len(images))
        rows.append(found[(place[here] >= 0).to(found.device)].cpu())
        all_of_them.add(found)
        for times_drawn, drawn in floors:
            again = found.repeat_interleave(times_drawn[here].to(found.device), dim=0)
            if len(again):
                drawn.add(again)
        first = here.stop
    shuffled = torch.cat(rows)[place[place >= 0].argsort()]
    nearest = own_distance(to_float(nearest_candidates(store, data)), device=extract.device)
    statistics = all_of_them.result()
    compared = statistics if target is None else target.to(statistics.mean.device)
    distances = [frechet_distance(compared, drawn.result()) for _, drawn in floors]
    floor = torch.tensor(distances, dtype=torch.float64)
    return RealImages(statistics.to(torch.device("cpu")), floor, shuffled, nearest)


def nearest_candidates(store: Store, data: Dataset) -> Tensor:
    """Real images, uint8 (N, C, H, W), to look for copies among: all, or 50 000 drawn of them."""
    if data.count <= NEAREST_AMONG:
        return load_images(store, data)
    return load_images(store, data, random_subset(data.count, NEAREST_AMONG).sort().values)


def random_subset(total: int, count: int) -> Tensor:
    """`count` of `total` numbers, no two alike: data may be sorted by class, so not the first."""
    return counter_random.shuffled_index(FLOOR_SEED, 0, torch.arange(count), total)


def _to_tensors(real: RealImages) -> Tensors:
    tensors = {f"statistics.{k}": v for k, v in real.statistics.to_tensors().items()}
    nearest = torch.tensor(real.nearest_rms, dtype=torch.float64)
    return tensors | {"features": real.features, "nearest_rms": nearest, "floor": real.floor}


def _from_tensors(tensors: Tensors) -> RealImages:
    part = "statistics."
    statistics = Gaussian.from_tensors(
        {key.removeprefix(part): v for key, v in tensors.items() if key.startswith(part)}
    )
    nearest = float(tensors["nearest_rms"])
    return RealImages(statistics, tensors["floor"], tensors["features"], nearest)
