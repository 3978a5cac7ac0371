import math

import pytest
import torch

from slimctl.models.flows.spec import HuberDistance, L2Distance
from slimctl.models.losses import distance


def test_l2_is_the_mean_square_of_each_sample():
    x, y = torch.randn(2, 4, 3, 5, 5)
    expected = torch.stack([torch.nn.functional.mse_loss(a, b) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(distance(L2Distance())(x, y), expected)


def test_huber_is_its_formula():
    x, y = torch.randn(2, 4, 3, 5, 5, dtype=torch.float64)
    squared = (x - y).square().flatten(1).sum(1)
    for c in (0.03, 100.0):
        value = distance(HuberDistance(c=c))(x, y)
        torch.testing.assert_close(value, (squared + c**2).sqrt() - c)
    c = 0.00054 * math.sqrt(75)
    torch.testing.assert_close(distance(HuberDistance())(x, y), (squared + c**2).sqrt() - c)


def test_huber_is_right_where_its_formula_cancels():
    x = torch.zeros(1, 1, 2, 2)
    y = torch.full((1, 1, 2, 2), 1e-5)
    value = distance(HuberDistance(c=1.0))(x, y).item()
    assert value == pytest.approx(4e-10 / 2, rel=1e-4)


def test_huber_has_a_finite_gradient_at_zero():
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    distance(HuberDistance())(x, torch.zeros(1, 1, 2, 2)).sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
