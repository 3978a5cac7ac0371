"""Distances between the rows of two tables, a tile at a time.

Tiles bound the memory: 64 MiB for a tile of distances, however large the tables are. Everything is
float64, which neither autocast nor TF32 touches: the squared distance comes from a matrix product
(|a|^2 + |b|^2 - 2 a.b), and in float32 that loses near duplicates, the very thing looked for.
"""

from collections.abc import Iterator

import torch

from slimctl.models.shapes import Float, Tensor

TILE_ROWS = 2048
"""Rows of the first table in one tile."""
TILE_COLUMNS = 4096
"""Rows of the second table in one tile."""

_ROUNDING = 1e-13
"""Squared distances below this share of |a|^2 + |b|^2 are rounding of the matrix product."""


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distances (float64), exactly 0 between duplicates.

    Measured from the mean of `b`, so that a common offset costs no digits. Rows nearer to each
    other than about 3e-7 of their distance to that mean count as duplicates.
    """
    centre = b.double().mean(dim=0)
    a, b = a.double() - centre, b.double() - centre
    scale = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None, :]
    squares = torch.addmm(scale, a, b.T, alpha=-2.0)
    return squares.masked_fill_(squares < _ROUNDING * scale, 0.0)


def tiles(rows: Float[Tensor, "n d"], size: int) -> Iterator[tuple[int, Float[Tensor, "k d"]]]:
    """Consecutive pieces of up to `size` rows, each with the number of its first row."""
    return ((start, rows[start : start + size]) for start in range(0, len(rows), size))


def hide_own(squares: Float[Tensor, "n m"], own: Tensor, first_column: int) -> None:
    """Sets the distance of each row to itself to infinity, in place.

    Args:
        squares: one tile of squared distances.
        own: int64 (n,), the row of the second table that row i is; -1 is none of them.
        first_column: number of the tile's first row of the second table.
    """
    column = own - first_column
    inside = (column >= 0) & (column < squares.shape[1]) & (own >= 0)
    row = inside.nonzero().flatten()
    squares[row, column[row]] = torch.inf
