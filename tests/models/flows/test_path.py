import torch

from slimctl.models.flows.path import interpolate, path_velocity


def test_ends_are_exact_and_the_velocity_is_the_derivative():
    x0, x1 = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(interpolate(x0, x1, torch.zeros(5, dtype=torch.float64)), x0)
    assert torch.equal(interpolate(x0, x1, torch.ones(5, dtype=torch.float64)), x1)
    t = torch.rand(5, dtype=torch.float64)
    slope = (interpolate(x0, x1, t + 0.25) - interpolate(x0, x1, t)) / 0.25
    torch.testing.assert_close(slope, path_velocity(x0, x1))


def test_each_sample_has_its_own_time():
    x0, x1 = torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)
    t = torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(interpolate(x0, x1, t)[:, 0, 0, 0], t)
