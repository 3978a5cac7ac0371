"""EDM's sampler: its grid, its order on Gaussian data, and agreement with rk45 on any flow."""

import pytest
import torch

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.edm_heun import edm_heun, edm_sigmas
from slimctl.models.solvers.spec import EDMHeunSpec, RK45Spec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=2)


class Zero(torch.nn.Module):
    """The best F for Gaussian data of standard deviation sigma_data."""

    evaluations = 0

    def forward(self, x, noise, label):
        self.evaluations += 1
        return torch.zeros_like(x)


def test_grid_is_the_published_one():
    sigmas = edm_sigmas(18)
    assert len(sigmas) == 19
    assert sigmas[:1] + sigmas[-2:] == pytest.approx((80.0, 0.002, 0.0))
    middle = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert sigmas[9] == pytest.approx(middle)
    for wrong in ((1,), (5, 0.001), (5, 80.0, 0.0)):
        with pytest.raises(ValueError, match="at least 2 steps"):
            edm_sigmas(*wrong)


def test_order_two_on_gaussian_data():
    x0, errors = torch.ones(1, 1, 2, 2, dtype=torch.float64), []
    for steps in (32, 64, 128):
        x1 = edm_heun(EDMFlow(Zero(), IMAGE), x0, steps=steps).x1
        # sigma = 0 is reached by one Euler step from 0.002, whose relative error is 8e-6.
        exact = 80 * 0.5 / (80**2 + 0.5**2) ** 0.5
        errors.append(abs(x1.mean().item() / exact - 1 - 0.002**2 / 0.5**2 / 2))
    assert 1.8 < torch.tensor(errors[0] / errors[1]).log2() < 2.3
    assert 1.8 < torch.tensor(errors[1] / errors[2]).log2() < 2.3


def test_evaluations_are_counted():
    flow = EDMFlow(Zero(), IMAGE)
    solution = edm_heun(flow, torch.randn(3, 1, 2, 2))
    assert flow.network.evaluations == 35
    assert solution.nfe.tolist() == [35, 35, 35]


def test_it_ends_where_rk45_does_on_another_flow():
    torch.manual_seed(0)
    images = torch.rand(5, 1, 2, 2) * 2 - 1
    label = torch.tensor([0, 1, 0, 1, 0])
    flow = AnalyticFlow(images, label, classes=2, bandwidth=0.3, t_start=1 / 81)
    x0, wanted = torch.randn(6, 1, 2, 2), torch.tensor([0, 0, 0, 1, 1, 1])
    ours = edm_heun(flow, x0, wanted, steps=100)
    # The sampler starts at 80 x0 where the others start at 81 x0, of which x0 is 1 / 81.
    theirs = solve(RK45Spec(tolerance=1e-6), flow, x0 * 80 / 81, wanted)
    assert (ours.x1 - theirs.x1).abs().max() < 2e-3


def test_a_flow_from_pure_noise_is_refused():
    flow = AnalyticFlow(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match="starts at t = 0"):
        edm_heun(flow, torch.randn(1, 1, 2, 2))


def test_the_spec_asks_for_the_same_and_for_other_levels():
    flow, x0 = EDMFlow(Zero(), IMAGE), torch.randn(2, 1, 2, 2)
    assert torch.equal(solve(EDMHeunSpec(), flow, x0).x1, edm_heun(flow, x0).x1)
    narrow = EDMHeunSpec(steps=9, rho=5.0, sigma_min=0.01, sigma_max=10.0)
    expected = edm_heun(flow, x0, None, 9, 0.01, 5.0, 10.0)
    assert torch.equal(solve(narrow, flow, x0).x1, expected.x1)
    assert expected.nfe.tolist() == [17, 17]


def test_the_spec_is_for_flows_that_denoise():
    flow = AnalyticFlow(torch.zeros(1, 1, 2, 2), t_start=0.1)
    with pytest.raises(ValueError, match="edm_heun needs a denoiser, not a AnalyticFlow"):
        solve(EDMHeunSpec(), flow, torch.randn(1, 1, 2, 2))
    with pytest.raises(ValueError, match="goes from sigma_max to the image"):
        solve(EDMHeunSpec(), EDMFlow(Zero(), IMAGE), torch.randn(1, 1, 2, 2), t_start=0.5)
