"""The Fréchet distance that infinitely many samples would have.

The distance of n samples is too large by an amount that is nearly proportional to 1 / n, and that
differs between models, so that a ranking may depend on n. Distances of subsets of several sizes lie
on a line over 1 / n, whose value at 0 is the distance without that bias. (Only the samples are
extrapolated; the reference is what it is.)
"""

import torch

from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Factored, Rooted, gaussian_of
from slimctl.models.metrics.interval import Interval, student_t
from slimctl.models.shapes import Float, Tensor

SIZES = 15
"""Sizes of subsets, as the paper has."""
SMALLEST = 0.2
"""The smallest, of all samples: the paper's are 5000 to 50 000."""
FOLDS = 10
"""Parts of the samples, each of which is left out once for the interval."""


def measure(evidence: Evidence) -> dict[str, float | None]:
    """The distance with its 95 % interval; None with fewer samples than it can be told from."""
    reference = Factored.of(evidence.reference.to(evidence.sampler.device))
    own = evidence.own.to(evidence.sampler.device)
    if len(own) < fewest(own.shape[1]):
        return dict.fromkeys(("fd_infinity", "fd_infinity_low", "fd_infinity_high"))
    found = fd_infinity(reference, own, evidence.seed)
    return {
        "fd_infinity": found.mean,
        "fd_infinity_low": found.low,
        "fd_infinity_high": found.high,
    }


def fewest(width: int) -> int:
    """Samples from which on it is told: the smallest subset's covariance has full rank then.

    Below that the bias is no line over 1 / n.
    """
    return max(FOLDS * 2, round((width + 1) / SMALLEST * FOLDS / (FOLDS - 1)) + 1)


def fd_infinity(reference: Rooted, features: Float[Tensor, "n d"], seed: int = 0) -> Interval:
    """The extrapolated distance of samples to a reference, and its interval over samples.

    The interval is that of the jackknife: the samples are shuffled and cut into ten parts, the
    distance is extrapolated without each of them, and Student's t has 9 degrees of freedom. It
    holds what depends on which samples were drawn. May be below 0 where the distance is about 0.

    Args:
        reference: what the samples are compared with.
        features: of independent samples; at least `fewest(d)`.
        seed: of the shuffle.

    Raises:
        ValueError: too few rows, unlike dimensions, or a NaN or infinity.

    Source: Chong and Forsyth, arXiv 1911.07023, section 3 (the line); Efron and Stein, The
        jackknife estimate of variance (1981), grouped.
    """
    count, width = features.shape
    if count < fewest(width):
        raise ValueError(
            f"{count} samples of {width} features cannot be extrapolated from\n"
            f"  fix: measure on {fewest(width)} samples or more"
        )
    draws = counter_random.uniform(seed, Stream.SUBSET, torch.arange(count), step=2)
    shuffled = features[draws.argsort(stable=True).to(features.device)]
    value = _extrapolated(reference, shuffled)
    kept = torch.arange(count, device=features.device) % FOLDS
    without = [_extrapolated(reference, shuffled[kept != fold]) for fold in range(FOLDS)]
    centre = sum(without) / FOLDS
    variance = (FOLDS - 1) / FOLDS * sum((each - centre) ** 2 for each in without)
    half = student_t(0.95, FOLDS - 1) * variance**0.5
    return Interval(value, value - half, value + half, count)


def _extrapolated(reference: Rooted, features: Float[Tensor, "n d"]) -> float:
    """The line's value at 1 / n = 0, by least squares."""
    count = len(features)
    sizes = torch.linspace(SMALLEST * count, count, SIZES).round().int().tolist()
    found, first = [], 0
    for size in sizes:
        rows = torch.arange(first, first + size, device=features.device) % count
        found.append(frechet_distance(reference, gaussian_of(features[rows])))
        first = (first + size) % count  # goes round, so that all samples count about as often
    x = 1.0 / torch.tensor(sizes, dtype=torch.float64)
    y = torch.tensor(found, dtype=torch.float64)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return float(y.mean() - slope * x.mean())
