"""Exact paths against a flow whose solution is known."""

import math
from itertools import pairwise

import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.spec import ImageShape
from slimctl.models.steps.flow_environment import exact_paths


class Decay(Flow):
    """dx/dt = -3 x, whose solution is x0 exp(-3 t)."""

    def __init__(self, t_start=0.0):
        super().__init__(ImageShape(channels=1, size=2))
        self.t_start = t_start

    def _velocity(self, xt, t, label):
        return -3.0 * xt


X0 = torch.randn((5, 1, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ROWS = torch.tensor([3, 0, 4, 4])
TIMES = torch.tensor([0.0, 0.333, 0.71, 1.0], dtype=torch.float64)


def exact(rows, t):
    return X0[rows] * torch.exp(-3.0 * t)[:, None, None, None]


def test_points_lie_on_the_solution():
    paths = exact_paths(Decay(), X0, None, 1e-8, 4)
    assert paths.times == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert paths.points.shape == paths.velocities.shape == (5, 5, 1, 2, 2)
    torch.testing.assert_close(paths.points[:, 3], X0 * math.exp(-2.25), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(paths.velocities, -3.0 * paths.points)


def test_between_them_it_is_of_order_four():
    errors = []
    for stretches in (4, 8, 16):
        paths = exact_paths(Decay(), X0, None, 1e-10, stretches)
        errors.append(float((paths.at(ROWS, TIMES) - exact(ROWS, TIMES)).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(3.0 < order < 5.5 for order in orders), orders
    assert errors[-1] < 1e-4
