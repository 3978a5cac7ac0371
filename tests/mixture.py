"""The closed form of a mixture of Gaussians behind every prediction and schedule."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.parameterisation import (
    CosineVPSchedule,
    DiscreteVPSchedule,
    EDMSchedule,
    LinearVPSchedule,
    Parameterisation,
    VESchedule,
)
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=4)
SIGMA_DATA = 0.5


def linear_vp(time):
    """Shares of image and noise at a network time, from the papers' side."""
    s = time / 999
    a = torch.exp(-(19.9 * s**2 / 2 + 0.1 * s) / 2)
    return a, (1 - a**2).sqrt()


def cosine_vp(time):
    start = math.cos(0.008 / 1.008 * math.pi / 2)
    a = torch.cos((time + 0.008) / 1.008 * math.pi / 2) / start
    return a, (1 - a**2).sqrt()


def discrete_vp(time):
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    squared = torch.cumprod(1 - betas, 0)
    ln_sigma = ((1 - squared) / squared).sqrt().log()
    below = time.floor().long().clamp(max=998)
    share = time - below
    sigma = ((1 - share) * ln_sigma[below] + share * ln_sigma[below + 1]).exp()
    a = (1 + sigma**2).rsqrt()
    return a, a * sigma


def edm(time):
    sigma = (4 * time).exp()
    a = (sigma**2 + SIGMA_DATA**2).rsqrt()
    return a, a * sigma


SHARES = {
    "rectified": lambda time: (time, 1 - time),
    "ve": lambda time: (torch.ones_like(time), 2 * time.exp()),
    "vp_linear": linear_vp,
    "vp_cosine": cosine_vp,
    "vp_discrete": discrete_vp,
    "edm": edm,
}

_OTHERS = (VESchedule(), LinearVPSchedule(), CosineVPSchedule(), DiscreteVPSchedule())
PARAMETERISATIONS = {
    "velocity": Parameterisation(),
    "velocity at 1e-3": Parameterisation(t_start=1e-3),
    "edm": Parameterisation(prediction="edm", schedule=EDMSchedule(), sigma_data=SIGMA_DATA),
    "edm to 10": Parameterisation(
        prediction="edm", schedule=EDMSchedule(), sigma_data=SIGMA_DATA, sigma_max=10.0
    ),
} | {
    f"{prediction}, {schedule.kind}": Parameterisation(prediction=prediction, schedule=schedule)
    for schedule in (Parameterisation().schedule, *_OTHERS)
    for prediction in ("noise", "data", "v")
}

QUICK = ("velocity", "edm", "noise, vp_discrete", "data, ve", "v, vp_linear", "data, vp_cosine")
"""Every prediction and every schedule once."""
WALKED = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in PARAMETERISATIONS
]
"""Names of all, for tests that take seconds each: `make slow` has those that are not quick."""


class Answers(nn.Module):
    """What the perfect network of a parameterisation answers, given its own input only."""

    def __init__(self, exact, how):
        super().__init__()
        self.exact, self.how = exact, how

    def forward(self, point, time, label):
        if self.how.prediction == "velocity":
            return self.exact.velocity(point, time)
        a, b = (part[:, None, None, None] for part in SHARES[self.how.schedule.kind](time.double()))
        t = a / (a + b)
        xt = point.double() / (a + b)
        velocity = self.exact.velocity(xt, t.flatten())
        image, noise = xt + (1 - t) * velocity, xt - t * velocity
        # F = (D - c_skip x) / c_out with D = x - sigma noise, so that nothing nearly equal is
        # subtracted: c_out = sigma sd a, c_skip = (sd a)^2 and x = image + sigma noise.
        sd = SIGMA_DATA
        answers = {
            "noise": noise,
            "data": image,
            "v": a * noise - b * image,
            "edm": a * ((b / a) * image - sd**2 * noise) / sd,
        }
        return answers[self.how.prediction].to(point.dtype)


def mixture(bandwidth=0.3, count=5):
    """The exact flow of a few blurred images."""
    generator = torch.Generator().manual_seed(7)
    images = torch.rand((count, 1, 4, 4), generator=generator) * 2 - 1
    return AnalyticFlow(images, bandwidth=bandwidth)


def mixture_behind(how, **fields):
    """The same flow, its velocity said by a network of another parameterisation."""
    return make_flow(Answers(mixture(**fields), how), IMAGE, how)


def truth(flow, x0, steps=100):
    """Ends of the flow by the classical Runge-Kutta method in float64, even in log sigma."""
    start, points = flow.t_start, x0.double()
    if hasattr(flow, "sigma_max"):
        points = flow.sigma_max / (1 + flow.sigma_max) * points
    first = math.log(start / (1 - start)) if start else -9.0
    odds = torch.linspace(first, 9.0, steps, dtype=torch.float64).exp()
    times = [start, *(odds / (1 + odds)).tolist()[1 if start else 0 :], 1.0]
    for t, t_next in pairwise(times):
        h = t_next - t
        a = _at(flow, points, t)
        b = _at(flow, points + h / 2 * a, t + h / 2)
        c = _at(flow, points + h / 2 * b, t + h / 2)
        d = _at(flow, points + h * c, t_next)
        points = points + h / 6 * (a + 2 * b + 2 * c + d)
    return points


def _at(flow, x, t):
    return flow.velocity(x, torch.full((len(x),), t, dtype=torch.float64))
