"""The layers that families share, against arithmetic by hand."""

import pytest
import torch
from torch.nn import functional

from slimctl.models.networks.layers import enlarge, group_count, halve, halve_inside


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


def test_binomial_halving_is_the_published_convolution():
    x = torch.randn(2, 3, 6, 8)
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = torch.outer(line, line).expand(3, 1, 4, 4)
    expected = functional.conv2d(x, kernel, stride=2, padding=1, groups=3)
    assert torch.allclose(halve(x, "binomial"), expected, atol=1e-6)
    assert torch.allclose(
        halve_inside(functional.pad(x, (1, 1, 1, 1)), "binomial"), expected, atol=1e-6
    )


def test_binomial_doubling_mixes_neighbours_three_to_one():
    x = torch.tensor([0.0, 4.0, 8.0]).expand(1, 1, 3, 3)
    line = enlarge(x, 6, 6, "binomial")[0, 0, 2]
    assert line.tolist() == [0.0, 1.0, 3.0, 5.0, 7.0, 6.0]


@pytest.mark.parametrize("size", range(1, 9))
def test_binomial_filters_give_the_sizes_of_the_box(size):
    x = torch.randn(1, 2, size, size)
    small = halve(x, "binomial")
    assert small.shape == halve(x).shape
    assert halve_inside(functional.pad(x, (1, 1, 1, 1)), "binomial").shape == small.shape
    assert enlarge(small, size, size, "binomial").shape == x.shape
