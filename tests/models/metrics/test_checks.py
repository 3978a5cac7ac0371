"""Tables that no metric can use are refused, with the row to look at."""

import math

import pytest
import torch

from slimctl.models.metrics.checks import check_rows


def test_names_the_first_broken_row_of_a_long_table():
    rows = torch.zeros(10_000, 2)
    rows[9_000, 1] = math.inf
    rows[9_500, 0] = math.nan
    with pytest.raises(
        ValueError, match="features: NaN or infinity in 2 of 10000 rows, first in row 9000"
    ):
        check_rows(rows, "features", at_least=2)


def test_refuses_images_where_rows_are_asked_for():
    with pytest.raises(ValueError, match=r"shape is \(4, 3, 8, 8\), not \(samples, features\)"):
        check_rows(torch.zeros(4, 3, 8, 8), "features", at_least=1)
    with pytest.raises(ValueError, match=r"shape is \(4, 0\)"):
        check_rows(torch.zeros(4, 0), "features", at_least=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_takes_every_floating_type(dtype):
    check_rows(torch.ones(3, 2, dtype=dtype), "features", at_least=3)
