"""Tables that no metric can use are refused; tiled distances against direct differences."""

import math

import pytest
import torch

from slimctl.models.metrics.rows import check_rows, hide_own, squared_distances, tiles


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


def test_agrees_with_direct_differences():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(20, 50, generator=generator), torch.randn(30, 50, generator=generator)
    direct = (a.double()[:, None] - b.double()[None]).square().sum(dim=2)
    torch.testing.assert_close(squared_distances(a, b), direct, rtol=1e-12, atol=0)


def test_near_duplicates_far_from_the_origin_keep_their_digits():
    generator = torch.Generator().manual_seed(1)
    b = 1000 + torch.randn(10, 50, generator=generator, dtype=torch.float64)
    a = b[:1] + 1e-4
    torch.testing.assert_close(
        squared_distances(a, b)[0, 0], torch.tensor(50e-8).double(), rtol=1e-5, atol=0
    )


def test_duplicates_are_at_exactly_zero():
    rows = torch.randn(40, 300, generator=torch.Generator().manual_seed(2)) * 100
    assert squared_distances(rows, rows).diagonal().eq(0).all()
    one = rows[:1].expand(5, -1)
    assert squared_distances(one, one).eq(0).all()


def test_tiles_cover_every_row_once():
    rows = torch.arange(10.0)[:, None]
    pieces = list(tiles(rows, 4))
    assert [start for start, _ in pieces] == [0, 4, 8]
    assert torch.equal(torch.cat([piece for _, piece in pieces]), rows)


def test_hides_only_the_own_column():
    squares = torch.zeros(4, 3)
    hide_own(squares, torch.tensor([5, 7, 8, -1]), first_column=5)
    expected = torch.zeros(4, 3)
    expected[0, 0] = expected[1, 2] = torch.inf
    assert torch.equal(squares, expected)
