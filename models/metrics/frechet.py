"""Fréchet distance between Gaussians fitted to the features of two sets of images (FID).

The trace of the matrix square root is taken as a sum of singular values, not with a general matrix
square root: tr (S1 S2)^(1/2) = || S1^(1/2) S2^(1/2) ||_* (nuclear norm). That is real by
construction, and with fewer samples than dimensions, where the usual product S1 S2 is singular and
the root of its rounding errors is 1e-8 rather than 1e-16, it keeps its digits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch

from models.metrics.checks import check_rows, check_same_width
from models.shapes import Float, Tensor

_BATCH = 4096
"""Rows turned into float64 at once: the features themselves stay in their own type."""


@dataclass(frozen=True, eq=False)
class GaussianStatistics:
    """Mean and covariance of a set of features, and how many samples they are from.

    Raises:
        ValueError: not float64, shapes that do not match, a covariance that is not symmetric, a
            NaN or infinity, or fewer than two samples.
    """

    mean: Float[Tensor, " d"]
    """Mean, float64."""
    covariance: Float[Tensor, "d2 d3"]
    """Unbiased covariance (divided by count - 1), float64, shape (d, d)."""
    count: int
    """Number of samples, at least 2."""

    def __post_init__(self) -> None:
        width = len(self.mean)
        if self.covariance.shape != (width, width):
            raise ValueError(
                f"statistics: the mean has {width} dimensions, but the covariance has shape "
                f"{tuple(self.covariance.shape)}\n  fix: take both from the same features"
            )
        if self.mean.dtype != torch.float64 or self.covariance.dtype != torch.float64:
            raise ValueError(
                f"statistics: the types are {self.mean.dtype} and {self.covariance.dtype}\n"
                "  fix: compute both in float64"
            )
        check_rows(self.mean[None], "mean of the statistics", at_least=1)
        check_rows(self.covariance, "covariance of the statistics", at_least=1)
        _check_symmetric(self.covariance)
        if self.count < 2:
            raise ValueError(
                f"statistics: {self.count} sample(s) have no covariance\n"
                "  fix: measure on at least 2 samples, better on thousands"
            )

    @classmethod
    def from_features(cls, features: Float[Tensor, "n d"]) -> Self:
        """Statistics of one table of features, at least 2 rows.

        Raises:
            ValueError: fewer than 2 rows, no columns, or a NaN or infinity.
        """
        check_rows(features, "features", at_least=2)
        return cls.from_batches(torch.split(features, _BATCH))

    @classmethod
    def from_batches(cls, batches: Iterable[Float[Tensor, "_ d"]]) -> Self:
        """Statistics of features that come in batches of any size, in one pass.

        Raises:
            ValueError: fewer than 2 rows in all, rows of unlike widths, or a NaN or infinity.
        """
        total: _Moments | None = None
        for batch in batches:
            check_rows(batch, "features", at_least=1)
            moments = _moments(batch)
            total = moments if total is None else _combine(total, moments)
        if total is None or total.count < 2:
            raise ValueError(
                f"features: {0 if total is None else total.count} sample(s) in all, but a "
                "covariance needs at least 2\n  fix: measure on more samples"
            )
        return cls(total.mean, total.scatter / (total.count - 1), total.count)

    def merge(self, other: Self) -> Self:
        """Statistics of both sets together, as if computed from all their features at once.

        Raises:
            ValueError: unlike dimensions.
        """
        total = _combine(self._moments(), other._moments())
        return type(self)(total.mean, total.scatter / (total.count - 1), total.count)

    def to_tensors(self) -> dict[str, Tensor]:
        """Named tensors for a safetensors file; `from_tensors` reads them back bit for bit."""
        count = torch.tensor(self.count, dtype=torch.int64)
        return {"mean": self.mean, "covariance": self.covariance, "count": count}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The statistics that `to_tensors` named.

        Raises:
            ValueError: a tensor is missing, or they are not statistics (see the class).
        """
        missing = sorted({"mean", "covariance", "count"} - set(tensors))
        if missing:
            raise ValueError(
                f"statistics: no tensor {missing[0]!r} among {sorted(tensors)}\n"
                "  fix: this is another kind of file; compute the statistics again"
            )
        return cls(tensors["mean"], tensors["covariance"], int(tensors["count"]))

    def _moments(self) -> "_Moments":
        return _Moments(self.count, self.mean, self.covariance * (self.count - 1))


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians, at least 0.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), in the square of the features' unit. With Inception
    features this is FID.

    The rounding error is at most about 1e-12 (tr S1 + tr S2) for covariances of full rank, and also
    between statistics of which one is rank-deficient (fewer samples than dimensions).
    What limits a comparison is not rounding but bias: the distance of two sets of n samples of
    one distribution is above 0 by an amount of order 1 / n, so only values from equal counts
    compare.

    Raises:
        ValueError: unlike dimensions.

    Source: Dowson and Landau (1982); Heusel et al., arXiv 1706.08500, eq. 6.
    """
    check_same_width(a.mean, b.mean, ("the first statistics", "the second"))
    shift = (a.mean - b.mean.to(a.mean.device)).square().sum()
    overlap = torch.linalg.svdvals(_root(a.covariance).T @ _root(b.covariance.to(a.mean.device)))
    spread = a.covariance.trace() + b.covariance.trace().to(a.mean.device)
    return max(0.0, float(shift + spread - 2.0 * overlap.sum()))


def _root(covariance: Float[Tensor, "d d"]) -> Float[Tensor, "d r"]:
    """A factor L with L L^T = covariance, of as many columns as its numerical rank r."""
    values, vectors = torch.linalg.eigh(covariance)
    rounding = len(values) * torch.finfo(values.dtype).eps * values.abs().max()
    kept = values > rounding
    root: Tensor = vectors[:, kept] * values[kept].sqrt()
    return root


@dataclass(frozen=True, eq=False)
class _Moments:
    """Count, mean and scatter matrix (sum of centred outer products); defined from one row up."""

    count: int
    mean: Tensor
    scatter: Tensor


def _moments(features: Float[Tensor, "n d"]) -> _Moments:
    features = features.double()
    mean = features.mean(dim=0)
    centred = features - mean
    return _Moments(len(features), mean, centred.T @ centred)


def _combine(a: _Moments, b: _Moments) -> _Moments:
    """Moments of the union of two sets.

    Nothing here is a difference of large sums, so a mean far from 0 costs no digits.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
        sample variances (1979), eq. 2.1.
    """
    check_same_width(a.mean, b.mean, ("the first features", "later ones"))
    count = a.count + b.count
    shift = b.mean.to(a.mean.device) - a.mean
    scatter = a.scatter + b.scatter.to(a.scatter.device)
    scatter = torch.addr(scatter, shift, shift, alpha=a.count * b.count / count)
    return _Moments(count, a.mean + shift * (b.count / count), scatter)


def _check_symmetric(covariance: Float[Tensor, "d d"]) -> None:
    skew = float((covariance - covariance.T).abs().max())
    if skew > 1e-6 * float(covariance.abs().max()):
        raise ValueError(
            f"statistics: the covariance is not symmetric, entries differ by up to {skew:.3g}\n"
            "  fix: compute the statistics again"
        )
