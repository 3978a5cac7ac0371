"""What every metric asks of a table of features or images (one row per sample).

A NaN in one feature of one image would turn a whole metric into NaN, hours after the cause, so
tables are refused here, with the row to look at.
"""

import torch

from slimctl.models.shapes import Tensor

_PIECE = 4096
"""Rows looked at at once: the check makes temporaries as large as what it looks at."""


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
