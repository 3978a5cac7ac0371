"""Splitting conditions (classes, or rows of an embedding) into subsets of equal size.

Sizes differ by one at most, the first subsets being the larger ones. Every subset is sorted, and
k-means orders its subsets by their smallest condition, so that a result reads well and does not
depend on how it was found.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

MOST_EXCHANGED = 1000
"""Points up to which they change places in pairs, whose time grows with the cube of their number;
more are clustered by prices (`clusters`)."""
RESTARTS = 10
"""Starts of k-means, of which the best is kept."""
MAX_ROUNDS = 100
GAIN = 1e-9
"""Share of the cost by which an exchange must lower it: less is rounding."""

Subsets = tuple[tuple[int, ...], ...]
"""Conditions of each subset, rising."""
Matrix = NDArray[np.float64]


def sizes(conditions: int, count: int) -> list[int]:
    """Sizes of `count` subsets, as equal as can be.

    Raises:
        ValueError: fewer conditions than subsets, or no subsets.
    """
    if not 1 <= count <= conditions:
        raise ValueError(
            f"{conditions} conditions cannot be split into {count} subsets"
            f"\n  fix: ask for 1 to {conditions}"
        )
    each, more = divmod(conditions, count)
    return [each + (part < more) for part in range(count)]


def consecutive(conditions: int, count: int) -> Subsets:
    """Runs of neighbouring conditions: 0 1 2 | 3 4 5 | 6 7."""
    return _cut(np.arange(conditions), count)


def strided(conditions: int, count: int) -> Subsets:
    """Every count-th condition: 0 3 6 | 1 4 7 | 2 5."""
    sizes(conditions, count)
    return tuple(tuple(range(part, conditions, count)) for part in range(count))


def shuffled(conditions: int, count: int, seed: int) -> Subsets:
    """Runs of a random order."""
    return _cut(np.random.default_rng(seed).permutation(conditions), count)


def _cut(order: NDArray[np.int64], count: int) -> Subsets:
    bounds = np.cumsum(sizes(len(order), count))[:-1]
    return tuple(tuple(sorted(part.tolist())) for part in np.split(order, bounds))


def balanced_kmeans(points: Matrix, count: int, seed: int) -> Subsets:
    """Subsets of near points: the sum of squared distances to the subsets' means is low.

    For up to a thousand points. Lloyd's iteration with the sizes held: points change places in
    pairs while that lowers the sum, then the means move. Every round lowers the sum, and the best
    of ten starts is kept.

    Args:
        points: (conditions, dimensions).
        count: number of subsets.
        seed: of the starts.

    Raises:
        ValueError: fewer points than subsets, not a table, or a NaN or infinity.
    """
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"embeddings of shape {points.shape} are no table of finite numbers"
            "\n  fix: give one row of numbers per condition"
        )
    wanted = sizes(len(points), count)
    scaled = points - points.mean(axis=0)
    scaled = scaled / max(float(np.abs(scaled).max()), 1e-300)
    found = []
    for start in range(RESTARTS):
        rng = np.random.default_rng((seed, start))
        part = _settle(scaled, _first_parts(scaled, wanted, rng))
        found.append((_cost(scaled, part), part.tolist()))
    return as_subsets(min(found)[1], count)


def _first_parts(
    points: Matrix, wanted: Sequence[int], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Subsets around far-apart points: each takes its nearest free ones, up to its size."""
    centres = points[[int(rng.integers(len(points)))]]
    while len(centres) < len(wanted):
        weights = _squares(points, centres).min(axis=1) + 1e-12
        chosen = rng.choice(len(points), p=weights / weights.sum())
        centres = np.concatenate((centres, points[[chosen]]))
    squares = _squares(points, centres)
    part = np.full(len(points), -1)
    free = list(wanted)
    for flat in np.argsort(squares, axis=None, kind="stable"):
        point, subset = divmod(int(flat), len(wanted))
        if part[point] < 0 and free[subset]:
            part[point], free[subset] = subset, free[subset] - 1
    return part


def _settle(points: Matrix, part: NDArray[np.int64]) -> NDArray[np.int64]:
    cost = _cost(points, part)
    for _ in range(MAX_ROUNDS):
        part = _exchange(_squares(points, _means(points, part)), part)
        lower = _cost(points, part)
        if lower >= cost * (1.0 - GAIN):
            break
        cost = lower
    return part


def _exchange(squares: Matrix, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swaps the pair of points that gains most, again and again until no pair gains."""
    part = part.copy()
    rows = np.arange(len(part))
    least = -GAIN * float(squares[rows, part].sum())
    while True:
        own = squares[rows, part]
        moved = squares[:, part] - own[:, None]  # [i, j]: point i goes to the subset of point j
        change = moved + moved.T
        i, j = np.unravel_index(int(change.argmin()), change.shape)
        if change[i, j] >= min(least, 0.0) - 1e-15:
            return part
        part[i], part[j] = part[j], part[i]


def _squares(points: Matrix, centres: Matrix) -> Matrix:
    return np.asarray(np.square(points[:, None] - centres[None]).sum(axis=2))


def _means(points: Matrix, part: NDArray[np.int64]) -> Matrix:
    return np.stack([points[part == subset].mean(axis=0) for subset in range(part.max() + 1)])


def _cost(points: Matrix, part: NDArray[np.int64]) -> float:
    return float(np.square(points - _means(points, part)[part]).sum())


def as_subsets(part: Iterable[int], count: int) -> Subsets:
    """The conditions of each subset, rising, from the subset of each condition."""
    members: list[list[int]] = [[] for _ in range(count)]
    for condition, subset in enumerate(part):
        members[subset].append(condition)
    return tuple(sorted(tuple(found) for found in members))


def check_subsets(subsets: Sequence[Sequence[int]], conditions: int) -> None:
    """Checks that every condition 0..conditions-1 is in exactly one subset.

    Raises:
        ValueError: a condition is missing, unknown or in two subsets, or a subset is empty.
    """
    mistakes = [f"subset {part} is empty" for part, subset in enumerate(subsets) if not subset]
    homes: dict[int, list[int]] = {}
    for part, subset in enumerate(subsets):
        for condition in subset:
            homes.setdefault(condition, []).append(part)
    for condition, parts in sorted(homes.items()):
        if not 0 <= condition < conditions:
            mistakes.append(f"there is no label {condition}, only 0..{conditions - 1}")
        elif len(parts) > 1:
            mistakes.append(f"label {condition} is in the subsets {_listed(parts)}")
    missing = [condition for condition in range(conditions) if condition not in homes]
    if missing:
        mistakes.append(f"label{'s' * (len(missing) > 1)} {_listed(missing)} in no subset")
    if mistakes:
        raise ValueError(
            f"{'; '.join(mistakes)}\n  fix: name each label of 0..{conditions - 1} exactly once"
        )


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown} and {len(numbers) - 10} more" if len(numbers) > 10 else shown
