"""Every prediction on every schedule, against Gaussian data, whose flow is known exactly."""

import math

import pytest
import torch
from mixture import SHARES
from torch import nn

from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.parameterisation import (
    CosineVPSchedule,
    DiscreteVPSchedule,
    EDMSchedule,
    LinearVPSchedule,
    Parameterisation,
    RectifiedSchedule,
    VESchedule,
)
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import RK45Spec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=2)
S = 0.6
"""Standard deviation of the data."""


SCHEDULES = {
    schedule.kind: (schedule, SHARES[schedule.kind])
    for schedule in (
        RectifiedSchedule(),
        VESchedule(),
        LinearVPSchedule(),
        CosineVPSchedule(),
        DiscreteVPSchedule(),
    )
}


class Best(nn.Module):
    """What the perfect network answers for data N(0, S^2), given its own input only."""

    def __init__(self, prediction, shares):
        super().__init__()
        self.prediction, self.shares = prediction, shares

    def forward(self, point, time, label):
        a, b = (part[:, None, None, None] for part in self.shares(time.double()))
        total = (a * S) ** 2 + b**2
        image, noise = a * S**2 / total * point, b / total * point
        answers = {"noise": noise, "data": image, "v": a * noise - b * image}
        return answers[self.prediction].to(point.dtype)


def best(prediction, name, **levels):
    schedule, shares = SCHEDULES[name]
    how = Parameterisation(prediction=prediction, schedule=schedule, **levels)
    return make_flow(Best(prediction, shares), IMAGE, how)


def exact_velocity(xt, t):
    t = t[:, None, None, None]
    return (t * S**2 - (1 - t)) / (t.square() * S**2 + (1 - t).square()) * xt


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction", ["noise", "data", "v"])
def test_a_perfect_network_gives_the_exact_velocity_and_denoiser(prediction, name):
    flow = best(prediction, name)
    low, high = flow.sigma_min, flow.sigma_max
    sigma = torch.logspace(math.log10(low), math.log10(min(high, 300)), 9, dtype=torch.float64)
    t, x = 1 / (1 + sigma), torch.randn(9, 1, 2, 2, dtype=torch.float64)
    velocity, exact = flow.velocity(x, t), exact_velocity(x, t)
    # The answer is float32 and, for an image at small sigma, divided by sigma.
    scale = x.abs() * (1 + sigma[:, None, None, None])
    scale = scale * (1 + (prediction == "data") / sigma[:, None, None, None])
    assert ((velocity - exact).abs() / scale).max() < 3e-5
    denoised = flow.denoise(x, sigma)
    expected = (S**2 / (S**2 + sigma**2))[:, None, None, None] * x
    assert ((denoised - expected).abs() / (1 + sigma[:, None, None, None])).max() < 3e-5
    assert flow.t_start == pytest.approx(1 / (1 + high))


@pytest.mark.parametrize(
    ("prediction", "name"),
    [("noise", "vp_linear"), ("v", "vp_discrete"), ("data", "rectified"), ("noise", "ve")],
)
def test_noise_arrives_where_the_exact_flow_takes_it(prediction, name):
    flow, x0 = best(prediction, name), torch.randn(4, 1, 2, 2)
    x1 = solve(RK45Spec(tolerance=1e-5), flow, x0).x1
    high = flow.sigma_max
    exact = high * S / math.sqrt(high**2 + S**2) * x0
    assert (x1 - exact).abs().max() < 0.02 * S  # sigma_min is not 0


def test_it_is_finite_and_held_at_both_ends():
    for name in SCHEDULES:
        flow, x = best("v", name), torch.randn(4, 1, 2, 2)
        velocity = flow.velocity(x, torch.tensor([0.0, 1e-9, 1.0, 0.5]))
        assert velocity.isfinite().all()


def test_levels_can_be_narrowed():
    flow = best("noise", "vp_linear", sigma_min=0.1, sigma_max=20.0)
    assert (flow.sigma_min, flow.sigma_max, flow.t_start) == (0.1, 20.0, pytest.approx(1 / 21))
    assert torch.equal(flow.enter(torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 1 - 1 / 21))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "velocity", "schedule": VESchedule()}, "velocity does not go with"),
        ({"prediction": "noise", "schedule": EDMSchedule()}, "noise does not go with"),
        ({"prediction": "edm", "schedule": VESchedule()}, "edm does not go with"),
        ({"prediction": "noise", "sigma_min": 9.0, "sigma_max": 3.0}, "must be below sigma_max 3"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Parameterisation(**fields)


def test_a_nearest_step_is_a_whole_number():
    spec = DiscreteVPSchedule(betas="squaredcos_cap_v2", steps=10, between="nearest")
    seen = []

    class Ear(nn.Module):
        def forward(self, x, time, label):
            seen.append(time)
            return x

    flow = make_flow(Ear(), IMAGE, Parameterisation(prediction="noise", schedule=spec))
    levels = torch.tensor(spec.sigmas())
    flow.denoise(torch.zeros(10, 1, 2, 2), levels)
    assert seen[0].tolist() == list(range(10))
    flow.denoise(torch.zeros(9, 1, 2, 2), 0.4 * levels[1:] + 0.6 * levels[:-1])
    assert seen[1].tolist() == list(range(9))


def test_a_zero_terminal_schedule_ends_before_infinity():
    spec = DiscreteVPSchedule(betas="scaled_linear", steps=50, zero_terminal=True)
    assert len(spec.sigmas()) == 49
    assert all(math.isfinite(sigma) for sigma in spec.sigmas())
