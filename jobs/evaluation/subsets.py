"""Quality by subset of the labels, beside the joint figures and on the same features.

The joint distance of a mixture is no mean of its parts' distances: it also sees how much there is
of each. Subsets are small, and few samples raise every distance, so each stands beside its floor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset, SubsetQuality
from slimctl.jobs.evaluation.reference import floor_draws, random_subset
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_labels
from slimctl.models.metrics.frechet import frechet_distance, resampled_distances
from slimctl.models.metrics.gaussians import gaussian_of
from slimctl.models.metrics.precision_recall import precision_recall

CPU = torch.device("cpu")
FEWEST = 20
"""Samples, and real images, below which a subset's distance tells nothing: on pixels 20 images of
one digit are 31 % of the variance away from all of that digit, 10 are 61 % and 50 are 9 %."""


def by_labels(
    store: Store,
    data: Dataset,
    real: Tensor,
    own: tuple[Tensor, Tensor | None],
    subsets: Sequence[Sequence[int]],
    neighbours: int,
    device: torch.device,
) -> tuple[tuple[SubsetQuality, ...], tuple[SubsetQuality, ...]]:
    """Quality by subset and by class; nothing where images or samples have no labels.

    Args:
        store: where the data is.
        data: real images.
        real: features (n, D) of a random subset of them, as `measure_real` keeps them.
        own: features (M, D) and labels (M,) of the samples.
        subsets: labels of each subset.
        neighbours: of precision and recall.
        device: where subsets of as many rows as columns are compared; smaller ones are on the CPU.
    """
    labels = load_labels(store, data)
    if labels is None or own[1] is None:
        return (), ()
    theirs = real, labels[random_subset(data.count, len(real))]
    ours = own[0], own[1]
    classes = [(label,) for label in range(data.image.classes)]
    return (
        subset_qualities(theirs, ours, subsets, neighbours, device),
        subset_qualities(theirs, ours, classes, neighbours, device),
    )


def subset_qualities(
    real: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    subsets: Sequence[Sequence[int]],
    neighbours: int,
    device: torch.device = CPU,
) -> tuple[SubsetQuality, ...]:
    """Quality by subset from features (n, D) and labels (n,); one of too few rows is left out."""
    found = []
    for labels in subsets:
        wanted = torch.tensor(tuple(labels))
        theirs = real[0][torch.isin(real[1], wanted)]
        ours = own[0][torch.isin(own[1], wanted)]
        if min(len(theirs), len(ours)) >= FEWEST:
            if len(theirs) >= theirs.shape[1]:
                theirs, ours = theirs.to(device), ours.to(device)
            found.append(_quality(tuple(labels), theirs, ours, neighbours))
    return tuple(found)


def _quality(labels: tuple[int, ...], real: Tensor, own: Tensor, neighbours: int) -> SubsetQuality:
    same = min(len(real), len(own))
    manifold = None
    if same > neighbours:
        chosen = random_subset(len(real), same).to(real.device)
        manifold = precision_recall(real[chosen], own[:same], neighbours)
    floor = resampled_distances(real, floor_draws(len(real), len(own), real.shape[1]))
    return SubsetQuality(
        labels=labels,
        samples=len(own),
        real=len(real),
        fid=frechet_distance(gaussian_of(real), gaussian_of(own)),
        fid_real=float(floor.mean()),
        fid_real_sd=float(floor.std()),
        precision=None if manifold is None else manifold.precision,
        recall=None if manifold is None else manifold.recall,
    )
