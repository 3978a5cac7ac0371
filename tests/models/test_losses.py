import torch
from torch import nn

from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.flows.spec import L2Distance
from slimctl.models.losses import (
    distance,
    flow_matching_loss,
    one_step_error,
    one_step_loss,
    one_step_velocity,
    two_step_error,
    two_step_target,
)
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=4)


class Straight(Flow):
    """Velocity towards fixed targets: x1 - x0 exactly, wherever on the line the point is."""

    def __init__(self, x1):
        super().__init__(IMAGE)
        self.x1 = x1

    def _velocity(self, xt, t, label):
        return (self.x1 - xt) / (1 - t)[:, None, None, None]


class CountingNetwork(nn.Module):
    def __init__(self, classes=0):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.calls = []

    def forward(self, xt, t, label):
        self.calls.append((len(xt), t, label))
        return self.conv(xt) * (1 + t[:, None, None, None])


def noise(seed, count=5):
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_flow_matching_loss_of_a_zero_field_is_the_mean_square_velocity():
    x0, x1 = noise(0), noise(1)
    loss = flow_matching_loss(lambda xt, t, label: torch.zeros_like(xt), x0, x1, torch.rand(5))
    torch.testing.assert_close(loss, (x1 - x0).square().mean((1, 2, 3)))


def test_flow_matching_loss_evaluates_on_the_path():
    x0, x1, t = noise(0), noise(1), torch.rand(5) * 0.9
    assert flow_matching_loss(Straight(x1).velocity, x0, x1, t).max() < 1e-10


def test_straight_flows_have_no_distillation_loss():
    x0, x1 = noise(0), noise(1)
    flow = Straight(x1)
    s = torch.linspace(0.2, 0.8, 5)
    u = one_step_velocity(flow, x0)
    target = two_step_target(flow, u, x0, s)
    torch.testing.assert_close(target, x1)
    assert one_step_loss(u, x0, target, distance(L2Distance())).max() < 1e-10
    assert one_step_error(flow, x0, x1).max() < 1e-10
    assert two_step_error(flow, x0, x1, s).max() < 1e-10


def test_two_step_target_follows_its_equation():
    x0, u, s = noise(0), noise(1), torch.linspace(0.2, 0.8, 5)
    guide = NetworkFlow(CountingNetwork(), IMAGE)
    target = two_step_target(guide, u, x0, s)
    for i in range(5):
        xs = x0[i : i + 1] + s[i] * u[i : i + 1]
        w = guide.network.conv(xs) * (1 + s[i])
        torch.testing.assert_close(target[i : i + 1], xs + (1 - s[i]) * w)
    assert not target.requires_grad


def test_two_step_error_uses_the_guides_own_first_step():
    x0, x1, s = noise(0), noise(1), torch.full((5,), 0.5)
    flow = NetworkFlow(CountingNetwork(), IMAGE)
    conv = flow.network.conv
    middle = x0 + 0.5 * conv(x0)
    sample = middle + 0.5 * 1.5 * conv(middle)
    expected = (sample - x1).square().mean((1, 2, 3))
    torch.testing.assert_close(two_step_error(flow, x0, x1, s), expected.detach())
