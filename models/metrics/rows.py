"""Tables of features or images, one row per sample: what metrics ask of them, and distances.

A NaN in one feature of one image would turn a whole metric into NaN, hours after the cause, so
tables are refused here, with the row to look at.

Distances are taken a tile at a time, which bounds the memory: 64 MiB for a tile, however large the
tables are. Everything is float64, which neither autocast nor TF32 touches: the squared distance
comes from a matrix product (|a|^2 + |b|^2 - 2 a.b), and in float32 that loses near duplicates, the
very thing looked for.
"""

from collections.abc import Iterator

import torch

from slimctl.models.shapes import Float, Tensor

_PIECE = 4096
"""Rows looked at at once: the check makes temporaries as large as what it looks at."""
TILE_ROWS = 2048
"""Rows of the first table in one tile."""
TILE_COLUMNS = 4096
"""Rows of the second table in one tile."""

_ROUNDING = 1e-13
"""Squared distances below this share of |a|^2 + |b|^2 are rounding of the matrix product."""


def check_rows(rows: Tensor, name: str, at_least: int) -> None:
    """Refuses a table that no metric can use.

    Args:
        rows: shape (n, d); any floating type.
        name: what the caller's user knows the table as, for the message.
        at_least: fewest rows that the metric is defined for.

    Raises:
        ValueError: not two-dimensional, no columns, too few rows, or a NaN or infinity.
    """
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"{name}: shape is {tuple(rows.shape)}, not (samples, features)\n"
            "  fix: flatten what belongs to one sample into one row"
        )
    if len(rows) < at_least:
        raise ValueError(
            f"{name}: {len(rows)} samples, but at least {at_least} are needed\n"
            "  fix: measure on more samples"
        )
    finite = [torch.isfinite(piece).all(dim=1) for piece in torch.split(rows, _PIECE)]
    broken = (~torch.cat(finite)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"{name}: NaN or infinity in {len(broken)} of {len(rows)} rows, first in row "
            f"{broken[0]}\n  fix: look at that image and at the network that made the row"
        )


def check_same_width(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Refuses two tables (n, d) and (m, e) whose rows cannot be compared.

    Raises:
        ValueError: d and e differ.
    """
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"{names[0]} have {first.shape[-1]} dimensions, {names[1]} {second.shape[-1]}\n"
            "  fix: compute both with the same network, or from images of the same shape"
        )


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
