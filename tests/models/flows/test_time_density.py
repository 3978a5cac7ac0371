import math

import pytest
import torch
from scipy import integrate, stats

from slimctl.models.flows.spec import KarrasTime, LogNormalTime, UniformTime, UShapedTime
from slimctl.models.flows.time_density import quantile


def u_shaped_density(a):
    def unnormalised(t):
        return math.exp(a * t) + math.exp(a * (1 - t))

    total, _ = integrate.quad(unnormalised, 0.0, 1.0)
    return lambda t: unnormalised(t) / total


@pytest.mark.parametrize("a", [0.5, 4.0, 20.0])
def test_u_shaped_quantile_inverts_the_integral_of_the_density(a):
    density = u_shaped_density(a)
    u = torch.linspace(0, 1, 21, dtype=torch.float64)
    t = quantile(UShapedTime(a=a), u)
    mass = [integrate.quad(density, 0.0, float(end))[0] for end in t]
    torch.testing.assert_close(torch.tensor(mass, dtype=torch.float64), u, rtol=0, atol=1e-9)


def test_ends_stay_in_the_interval():
    ends = torch.tensor([0.0, 1.0])
    assert quantile(UShapedTime(), ends).tolist() == [0.0, 1.0]
    uniform = quantile(UniformTime(low=0.25, high=0.75), ends)
    assert uniform.tolist() == [0.25, 0.75]
    steep = quantile(UShapedTime(a=50.0), torch.rand(1000))
    assert steep.min() >= 0.0
    assert steep.max() <= 1.0


def test_uniform_numbers_become_the_density():
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    t = quantile(UniformTime(low=1e-3), u)
    assert stats.kstest(t.numpy(), stats.uniform(1e-3, 1 - 1e-3).cdf).statistic < 1e-3


@pytest.mark.parametrize(
    ("density", "sigmas"),
    [
        (KarrasTime(), (72, 16.6, 2.5, 0.19, 0.0032)),
        (UniformTime(low=0.02, high=0.98), (49, 2.8, 1.0, 0.35, 0.02)),
    ],
)
def test_noise_levels_have_their_quartiles(density, sigmas):
    t = quantile(density, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert ((1 - t) / t).tolist() == pytest.approx(sigmas, rel=0.03)


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (-0.6, 1.6)])
def test_logarithms_of_noise_levels_are_normal(mean, std):
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    t = quantile(LogNormalTime(mean=mean, std=std), u)
    assert (t.diff() > 0).all()
    found = stats.kstest(((1 - t) / t).log().numpy(), stats.norm(mean, std).cdf)
    assert found.statistic < 1e-3
    ends = quantile(LogNormalTime(), torch.tensor([0.0, 1.0]))
    assert ends.tolist() == [0.0, 1.0]
