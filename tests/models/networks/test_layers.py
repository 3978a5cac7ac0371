"""The layers that families share, against arithmetic by hand."""

import pytest
import torch
from torch.nn import functional

from models.networks.layers import enlarge, group_count, halve


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(128, 32), (96, 24), (64, 16), (384, 32), (48, 12), (72, 18), (144, 24), (240, 30), (5, 1)],
)
def test_group_count_divides_the_channels(channels, groups):
    assert group_count(channels) == groups
    assert channels % groups == 0


def test_even_sizes_are_the_usual_mean_and_repeat():
    x = torch.randn(2, 3, 6, 8)
    assert torch.equal(halve(x), functional.avg_pool2d(x, 2))
    assert torch.equal(enlarge(x, 12, 16), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_odd_border_averages_the_pixels_that_exist():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert halve(x).tolist() == [[[[2.0, 3.5], [6.5, 8.0]]]]


def test_enlarging_to_an_odd_size_crops_the_repeat():
    for size in range(1, 513):
        x = torch.arange(float((size + 1) // 2)).reshape(1, 1, 1, -1)
        assert torch.equal(enlarge(x, 1, size), x.repeat_interleave(2, 3)[..., :size])
