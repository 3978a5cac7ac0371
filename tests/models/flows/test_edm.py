"""EDM's denoiser as a flow: against Gaussian data, whose best F is 0, and its own definition."""

import pytest
import torch
from torch import nn

from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=2)


class Recorder(nn.Module):
    """An F that answers a function of its input, and keeps what it was called with."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, noise, label):
        self.x, self.noise, self.label = x, noise, label
        return self.function(x)


def flow(function=torch.zeros_like, classes=0, **levels):
    return EDMFlow(Recorder(function), IMAGE.model_copy(update={"classes": classes}), **levels)


def gaussian_velocity(x, t, s):
    """The exact flow of x1 ~ N(0, s^2)."""
    t = t[:, None, None, None]
    return (t * s**2 - (1 - t)) / (t.square() * s**2 + (1 - t).square()) * x


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
def test_f_of_zero_is_the_flow_of_gaussian_data(sigma_data):
    t = torch.tensor([1 / 81, 0.1, 0.5, 0.9, 1 / 1.002], dtype=torch.float64)
    x = torch.randn(5, 1, 2, 2, dtype=torch.float64)
    velocity = flow(sigma_data=sigma_data).velocity(x, t)
    assert torch.allclose(velocity, gaussian_velocity(x, t, sigma_data), atol=1e-9)


def test_velocity_is_the_denoisers():
    edm = flow(torch.sin)
    sigma = torch.tensor([0.002, 0.3, 5.0, 80.0], dtype=torch.float64)
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64) * sigma[:, None, None, None]
    t = 1 / (1 + sigma)
    xt = x * t[:, None, None, None]
    expected = (edm.denoise(x, sigma) - xt) / (1 - t)[:, None, None, None]
    assert torch.allclose(edm.velocity(xt, t), expected, atol=1e-9)


def test_denoiser_is_preconditioned_as_published():
    edm, label = flow(torch.cos, classes=3), torch.tensor([2])
    x, sigma = torch.randn(1, 1, 2, 2), torch.tensor([1.2])
    denoised = edm.denoise(x, sigma, label)
    total = 1.2**2 + 0.5**2
    assert torch.allclose(edm.network.x, x / total**0.5)
    assert edm.network.noise.item() == pytest.approx(torch.tensor(1.2).log().item() / 4)
    assert edm.network.label is label
    expected = 0.25 / total * x + 1.2 * 0.5 / total**0.5 * torch.cos(x / total**0.5)
    assert torch.allclose(denoised, expected, atol=1e-6)


def test_it_is_finite_at_both_ends_and_held_beyond_them():
    edm, x = flow(torch.sin), torch.randn(4, 1, 2, 2)
    velocity = edm.velocity(x, torch.tensor([0.0, 0.01, 0.9999, 1.0]))
    assert velocity.isfinite().all()
    at_ends = edm.velocity(x, torch.tensor([1 / 81, 1 / 81, 1 / 1.002, 1 / 1.002]))
    assert torch.allclose(velocity, at_ends, rtol=1e-3, atol=1e-3)
    assert edm.t_start == pytest.approx(1 / 81)


def test_the_network_computes_in_its_own_precision():
    network = nn.Conv2d(1, 1, 1)
    network.forward = lambda x, noise, label: nn.functional.conv2d(x, network.weight)
    x = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    assert EDMFlow(network, IMAGE).denoise(x, torch.ones(2).double()).dtype == torch.float64


def test_labels_and_levels_are_checked():
    x, sigma = torch.randn(1, 1, 2, 2), torch.ones(1)
    with pytest.raises(ValueError, match="3 classes"):
        flow(classes=3).denoise(x, sigma)
    with pytest.raises(ValueError, match="unconditional"):
        flow().denoise(x, sigma, torch.tensor([0]))
    for levels in ({"sigma_min": 0.0}, {"sigma_max": 0.001}):
        with pytest.raises(ValueError, match="sigma_min < sigma_max"):
            flow(**levels)
    with pytest.raises(ValueError, match="sigma_data is 0"):
        flow(sigma_data=0.0)
