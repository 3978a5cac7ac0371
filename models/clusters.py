"""Clusters of equal size of many points, in time proportional to points times clusters.

Lloyd's iteration with a price for each cluster: a point belongs where its squared distance plus the
price is least. The prices are the dual variables of the transport problem of equal sizes, found by
its entropic form at falling temperature; the few points that the rule still puts into a full
cluster move to where that costs least. Centres and prices then tell of any other point where it
belongs.

Source: k-means with equal sizes as in Song et al., Multi-student distillation (arXiv 2410.23274);
the prices by Cuturi, Sinkhorn distances (arXiv 1306.0895).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slimctl.models.partition import sizes

Floats = NDArray[np.float32]
Points = NDArray[np.float16] | NDArray[np.float32]
CHUNK = 16384
"""Points in float32 at once."""
SAMPLE = 10_000
"""Points that starts are tried on, and prices are first found for."""
RESTARTS = 8
MAX_ROUNDS = 30
GAIN = 1e-4
"""Share of the cost by which a round must lower it."""
TEMPERATURES = (0.3, 0.1, 0.03, 0.01, 0.003)
"""Over the mean spread of a point's costs."""
PRICE_ROUNDS = 20
CYCLES = 8
"""Of the last prices, each once a cycle."""


@dataclass(frozen=True)
class Clusters:
    """Points in clusters whose sizes differ by one at most."""

    part: NDArray[np.int32]
    """Cluster of each point, (n,); clusters are in the order of their first point."""
    centres: Floats
    """Means, (K, D)."""
    prices: Floats
    """What is added to the squared distances, (K,); their mean is 0."""
    cost: float
    """Mean squared distance of a point to its centre."""


def balanced_clusters(points: Points, count: int, seed: int) -> Clusters:
    """Clusters of near points, of equal size.

    Args:
        points: (n, D), finite.
        count: number of clusters, 1 <= count <= n.
        seed: of the starts.

    Raises:
        ValueError: fewer points than clusters, not a table, or a NaN or infinity.
    """
    if points.ndim != 2 or not all(bool(np.isfinite(each).all()) for each in _chunks(points)):
        raise ValueError(
            f"embeddings of shape {points.shape} are no table of finite numbers"
            "\n  fix: give one row of numbers per condition"
        )
    wanted = np.array(sizes(len(points), count))
    rng = np.random.default_rng(seed)
    few = points
    if len(points) > SAMPLE:
        few = points[np.sort(rng.choice(len(points), SAMPLE, replace=False))]
    few = few.astype(np.float32)
    quota = np.array(sizes(len(few), count))
    starts = (_settle(few, _spread_out(few, count, rng), quota) for _ in range(RESTARTS))
    found = min(starts, key=lambda each: each.cost)
    if len(few) < len(points):
        found = _settle(points, found.centres, wanted)
    return _in_order(_exact(points, found, wanted))


def _exact(points: Points, found: Clusters, wanted: NDArray[np.int64]) -> Clusters:
    """The same centres with prices at which nearly every point is where the rule puts it.

    One price after another becomes what the first point that is too many, and the last that is
    not, would pay for it: an ascent of the dual, coordinate by coordinate.
    """
    costs = np.concatenate([_products(each, found.centres) for each in _chunks(points)])
    prices = found.prices.copy()
    for _ in range(CYCLES if len(wanted) > 1 else 0):
        for cluster, room in enumerate(wanted):
            total = costs + prices
            total[:, cluster] = np.inf
            pays = total.min(axis=1) - costs[:, cluster]
            pays.partition((len(pays) - room - 1, len(pays) - room))
            prices[cluster] = pays[len(pays) - room - 1 : len(pays) - room + 1].mean()
    prices -= prices.mean()
    part = _even(costs + prices, wanted)
    return Clusters(part.astype(np.int32), found.centres, prices, found.cost)


def nearest_cluster(points: Points, centres: Floats, prices: Floats) -> NDArray[np.int64]:
    """The cluster of each point by centres and prices, (n,)."""
    return np.concatenate(
        [(_products(each, centres) + prices).argmin(axis=1) for each in _chunks(points)]
    )


def _chunks(points: Points) -> Iterator[Floats]:
    for at in range(0, len(points), CHUNK):
        yield points[at : at + CHUNK].astype(np.float32)


def _products(points: Floats, centres: Floats) -> Floats:
    """|c|^2 - 2 <x, c>: squared distances without the part that is the same for all centres."""
    found: Floats = np.square(centres).sum(axis=1) - 2.0 * (points @ centres.T)
    return found


def _spread_out(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Points far from each other (k-means++)."""
    centres = points[[int(rng.integers(len(points)))]]
    square = np.square(points).sum(axis=1)
    least = square + _products(points, centres)[:, 0]
    while len(centres) < count:
        weights = least.clip(0.0).astype(np.float64) + 1e-12
        chosen = rng.choice(len(points), p=weights / weights.sum())
        centres = np.concatenate((centres, points[[chosen]]))
        least = np.minimum(least, square + _products(points, centres[-1:])[:, 0])
    return centres


def _settle(points: Points, centres: Floats, wanted: NDArray[np.int64]) -> Clusters:
    """Lloyd's rounds from centres, the sizes held, until they gain next to nothing."""
    square = sum(float(np.square(each, dtype=np.float64).sum()) for each in _chunks(points))
    best: Clusters | None = None
    prices = np.zeros(len(centres), dtype=np.float32)
    for _ in range(MAX_ROUNDS):
        costs = np.concatenate([_products(each, centres) for each in _chunks(points)])
        prices = _prices(costs, wanted, prices)
        part = _even(costs + prices, wanted)
        chosen = np.take_along_axis(costs, part[:, None], axis=1)
        cost = (square + float(chosen.sum(dtype=np.float64))) / len(points)
        if best is not None and cost >= best.cost * (1.0 - GAIN):
            break
        best = Clusters(part.astype(np.int32), centres, prices, cost)
        centres = _means(points, part, wanted)
    assert best is not None, "there is a first round"
    return best


def _means(points: Points, part: NDArray[np.int64], wanted: NDArray[np.int64]) -> Floats:
    total: Floats = np.zeros((len(wanted), points.shape[1]), dtype=np.float32)
    for number, each in enumerate(_chunks(points)):
        own = part[number * CHUNK : number * CHUNK + len(each)]
        total += (own == np.arange(len(wanted))[:, None]).astype(np.float32) @ each
    means: Floats = (total / wanted[:, None]).astype(np.float32)
    return means


def _prices(costs: Floats, wanted: NDArray[np.int64], prices: Floats) -> Floats:
    """Prices at which each cluster is wanted by as many points as it has room for, nearly."""
    spread = float((costs.max(axis=1) - costs.min(axis=1)).mean())
    share = wanted / wanted.sum()
    if len(wanted) == 1 or spread == 0.0:
        return np.zeros_like(prices)
    few = costs[:: max(1, len(costs) // SAMPLE)]
    falling = TEMPERATURES if not prices.any() else TEMPERATURES[-1:]  # else they are near already
    for temperature in falling:
        for _ in range(PRICE_ROUNDS):
            prices = _closer(few, share, prices, temperature * spread)
    for _ in range(PRICE_ROUNDS // 2 if len(few) < len(costs) else 0):
        prices = _closer(costs, share, prices, TEMPERATURES[-1] * spread)
    return prices


def _closer(
    costs: Floats, share: NDArray[np.float64], prices: Floats, temperature: float
) -> Floats:
    """One of Sinkhorn's steps: prices rise where too many points want to be."""
    wish = (costs + prices) / np.float32(-temperature)
    wish -= wish.max(axis=1, keepdims=True)
    np.exp(wish, out=wish)
    wish /= wish.sum(axis=1, keepdims=True)
    mass = wish.mean(axis=0, dtype=np.float64).clip(1e-12)
    moved = prices + temperature * np.log(mass / share)
    closer: Floats = (moved - moved.mean()).astype(np.float32)
    return closer


def _even(costs: Floats, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cheapest cluster of each point; those too many move to where it costs least more."""
    part: NDArray[np.int64] = costs.argmin(axis=1)
    free = wanted - np.bincount(part, minlength=len(wanted))
    room = np.flatnonzero(free > 0)
    movable = np.flatnonzero(free[part] < 0)
    more = costs[movable][:, room] - costs[movable, part[movable]][:, None]
    for flat in np.argsort(more, axis=None, kind="stable"):
        if not (free > 0).any():
            break
        row, column = divmod(int(flat), len(room))
        point, target = movable[row], room[column]
        if free[part[point]] < 0 and free[target] > 0:
            free[part[point]] += 1
            free[target] -= 1
            part[point] = target
    return part


def _in_order(found: Clusters) -> Clusters:
    """The same with clusters in the order of their first point."""
    _, first = np.unique(found.part, return_index=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    part = place[found.part].astype(np.int32)
    return Clusters(part, found.centres[order], found.prices[order], found.cost)
