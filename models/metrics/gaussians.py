"""Gaussians fitted to the features of sets of images, in one pass over batches of any size."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from slimctl.models.metrics.rows import check_rows, check_same_width
from slimctl.models.shapes import Float, Tensor

_BATCH = 4096
"""Rows turned into float64 at once: the features themselves stay in their own type."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean and covariance of a set of features.

    Raises:
        ValueError: not float64, shapes that do not match, a covariance that is not symmetric, or a
            NaN or infinity.
    """

    mean: Float[Tensor, " d"]
    """Mean, float64."""
    covariance: Float[Tensor, "d2 d3"]
    """Unbiased covariance (divided by count - 1), float64, shape (d, d)."""

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

    @cached_property
    def root(self) -> Float[Tensor, "d r"]:
        """A factor L with L L^T = covariance, of as many columns as its numerical rank r."""
        values, vectors = torch.linalg.eigh(self.covariance)
        rounding = len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        kept = values > rounding
        root: Tensor = vectors[:, kept] * values[kept].sqrt()
        return root

    @property
    def spread(self) -> Tensor:
        """Trace of the covariance, 0-dim."""
        return self.covariance.trace()

    def to(self, device: torch.device) -> "Gaussian":
        """The same on a device."""
        if self.mean.device == device:
            return self
        return Gaussian(self.mean.to(device), self.covariance.to(device))

    @classmethod
    def from_features(cls, features: Float[Tensor, "n d"]) -> "Gaussian":
        """Statistics of one table of features, at least 2 rows.

        Raises:
            ValueError: fewer than 2 rows, no columns, or a NaN or infinity.
        """
        check_rows(features, "features", at_least=2)
        running = RunningStatistics()
        for rows in torch.split(features, _BATCH):
            running.add(rows)
        return running.result()

    def to_tensors(self) -> dict[str, Tensor]:
        """Named tensors for a safetensors file; `from_tensors` reads them back bit for bit."""
        return {"mean": self.mean, "covariance": self.covariance}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Gaussian":
        """The statistics that `to_tensors` named.

        Raises:
            ValueError: a tensor is missing, or they are not statistics (see the class).
        """
        missing = sorted({"mean", "covariance"} - set(tensors))
        if missing:
            raise ValueError(
                f"statistics: no tensor {missing[0]!r} among {sorted(tensors)}\n"
                "  fix: this is another kind of file; compute the statistics again"
            )
        return cls(tensors["mean"], tensors["covariance"])


@dataclass(frozen=True, eq=False)
class Factored:
    """A Gaussian without its covariance: all that a Fréchet distance asks for.

    Smaller for fewer samples than dimensions, and for any number what need not be computed twice.
    """

    mean: Float[Tensor, " d"]
    """Mean, float64."""
    root: Float[Tensor, "d n"]
    """A factor L with L L^T = covariance, float64."""
    spread: Tensor
    """Trace of the covariance, 0-dim."""

    @classmethod
    def of(cls, gaussian: "Rooted") -> "Factored":
        """The same Gaussian, with its root taken."""
        return cls(gaussian.mean, gaussian.root, gaussian.spread)


Rooted = Gaussian | Factored
"""What a Fréchet distance is of."""


def gaussian_of(features: Float[Tensor, "n d"]) -> Rooted:
    """The Gaussian of a table of features, at least 2 rows, in the form that is cheaper to compare.

    Raises:
        ValueError: fewer than 2 rows, no columns, or a NaN or infinity.
    """
    if len(features) >= features.shape[1]:
        return Gaussian.from_features(features)
    check_rows(features, "features", at_least=2)
    rows = features.double()
    mean = rows.mean(dim=0)
    root = (rows - mean).T / (len(rows) - 1) ** 0.5
    return Factored(mean, root, root.square().sum())


class RunningStatistics:
    """Statistics of features that come in pieces of any size; the pieces are not kept.

    Kept are count, mean and scatter matrix (sum of centred outer products). Nothing here is a
    difference of large sums, so a mean far from 0 costs no digits.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
        sample variances (1979).
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._scatter = torch.empty(0)

    def add(self, features: Float[Tensor, "_ d"]) -> None:
        """Takes in more rows, at least one.

        Raises:
            ValueError: no rows, rows of another width than before, or a NaN or infinity.
        """
        check_rows(features, "features", at_least=1)
        rows = features.double()
        mean = rows.mean(dim=0)
        self._take(len(rows), mean, (rows - mean).T @ (rows - mean))

    def merge(self, later: "RunningStatistics") -> None:
        """Takes in the rows that another one was given.

        Raises:
            ValueError: rows of another width than before.
        """
        state = later.to_tensors()
        self._take(int(state["count"]), state["mean"], state["scatter"])

    def _take(self, added: int, mean: Tensor, scatter: Tensor) -> None:
        count = self._count + added
        if self._count:
            check_same_width(self._mean, mean, ("the first features", "later ones"))
            shift = mean.to(self._mean.device) - self._mean
            both = self._scatter + scatter.to(self._scatter.device)
            scatter = torch.addr(both, shift, shift, alpha=self._count * added / count)
            mean = self._mean + shift * (added / count)
        self._count, self._mean, self._scatter = count, mean, scatter

    def to_tensors(self) -> dict[str, Tensor]:
        """Named tensors on the CPU; `from_tensors` goes on from them bit for bit."""
        state = {"count": torch.tensor(self._count), "mean": self._mean, "scatter": self._scatter}
        return {name: tensor.cpu() for name, tensor in state.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "RunningStatistics":
        """What `to_tensors` named."""
        running = cls()
        running._take(int(tensors["count"]), tensors["mean"], tensors["scatter"])
        return running

    def result(self) -> Gaussian:
        """Statistics of all rows so far.

        Raises:
            ValueError: fewer than 2 rows.
        """
        if self._count < 2:
            raise ValueError(
                f"features: {self._count} sample(s) in all, but a covariance needs at least 2\n"
                "  fix: measure on more samples"
            )
        return Gaussian(self._mean, self._scatter / (self._count - 1))


def _check_symmetric(covariance: Float[Tensor, "d d"]) -> None:
    skew = float((covariance - covariance.T).abs().max())
    if skew > 1e-6 * float(covariance.abs().max()):
        raise ValueError(
            f"statistics: the covariance is not symmetric, entries differ by up to {skew:.3g}\n"
            "  fix: compute the statistics again"
        )
