"""How much a Fréchet distance depends on which samples were drawn, by bootstrap.

The draws of the bootstrap are functions of the seed alone, so two models that were measured with
the same seed and number of samples have the same draws: if they also share their noise, differences
of their resampled distances are paired, and vary far less than the distances do.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Factored, Rooted, gaussian_of
from slimctl.models.metrics.interval import Interval
from slimctl.models.shapes import Float, Tensor

RESAMPLES = 100
NORMAL = 1.959963984540054
"""Of the standard normal distribution, what 95 % lie within."""


def measure(evidence: Evidence) -> dict[str, Any]:
    """The distance of the samples that are kept, its interval, and those of all resamples."""
    device = evidence.sampler.device
    reference, own = Factored.of(evidence.reference.to(device)), evidence.own.to(device)
    value = frechet_distance(reference, gaussian_of(own))
    resampled = resampled_distances(reference, own, evidence.seed)
    found = standard_interval(value, resampled)
    return {
        "fid_kept": value,
        "fid_kept_low": found.low,
        "fid_kept_high": found.high,
        "fid_resamples": tuple(resampled),
    }


def resampled_distances(
    reference: Rooted, features: Float[Tensor, "n d"], seed: int, resamples: int = RESAMPLES
) -> list[float]:
    """Distances to the reference of samples drawn with replacement.

    Raises:
        ValueError: fewer than 2 rows, unlike dimensions, or a NaN or infinity.
    """
    count, found = len(features), []
    for resample in range(resamples):
        index = torch.arange(resample * count, (resample + 1) * count)
        rows = counter_random.integers(seed, Stream.SUBSET, index, count).to(features.device)
        found.append(frechet_distance(reference, gaussian_of(features[rows])))
    return found


def standard_interval(value: float, resampled: Sequence[float]) -> Interval:
    """The 95 % interval of a value by the standard deviation of its resamples.

    Their mean is of no use: drawn with replacement, samples have the distance's bias twice.

    Raises:
        ValueError: fewer than two resamples.

    Source: Efron and Tibshirani, An introduction to the bootstrap (1993), section 12.
    """
    count = len(resampled)
    if count < 2:
        raise ValueError(f"{count} resample(s) have no interval: take two or more, better 100")
    mean = math.fsum(resampled) / count
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in resampled) / (count - 1))
    return Interval(value, value - NORMAL * spread, value + NORMAL * spread, count)


def paired_interval(
    first: float, second: float, resampled: tuple[Sequence[float], Sequence[float]]
) -> Interval:
    """The 95 % interval of `first - second` of two models that share noise and draws.

    Args:
        first: distance of one.
        second: distance of the other.
        resampled: distances of the resamples of each, by the same draws.

    Raises:
        ValueError: fewer than two resamples, or not equally many.
    """
    pairs = zip(*resampled, strict=True)
    return standard_interval(first - second, [one - other for one, other in pairs])
