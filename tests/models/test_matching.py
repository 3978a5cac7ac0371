"""The gradient of distribution matching on Gaussians, where both flows are known exactly."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.flows.flow import Flow
from slimctl.models.losses import (
    divergence_weight,
    edm_weight,
    expected_image,
    matching_gradient,
    matching_loss,
    score_identity_loss,
    squared_distance,
    through_images,
    velocity_identity_loss,
)
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=3)
SPREAD = 0.5


class Gaussian(Flow):
    """The flow from standard noise to N(mean, spread^2 I)."""

    def __init__(self, mean, spread=SPREAD):
        super().__init__(IMAGE)
        self.mean, self.spread = mean, spread

    def image_behind(self, xt, t):
        """E[x1 | xt] of two Gaussian variables: mean + cov(x1, xt) / var(xt) (xt - t mean)."""
        t = t[:, None, None, None]
        variance = t**2 * self.spread**2 + (1 - t) ** 2
        return self.mean + t * self.spread**2 / variance * (xt - t * self.mean)

    def _velocity(self, xt, t, label):
        return (self.image_behind(xt, t) - xt) / (1 - t)[:, None, None, None]


class GaussianDenoiser(nn.Module):
    """EDM's F of the same distribution, from the scaled input that EDM's networks get."""

    def __init__(self, mean, spread=SPREAD, sigma_data=0.5):
        super().__init__()
        self.mean, self.spread, self.sigma_data = mean, spread, sigma_data

    def forward(self, scaled, noise, label):
        sigma = (4.0 * noise).exp()[:, None, None, None]
        total = sigma**2 + self.sigma_data**2
        x = scaled * total.sqrt()
        share = self.spread**2 / (self.spread**2 + sigma**2)
        denoised = self.mean + share * (x - self.mean)
        skip = self.sigma_data**2 / total
        return (denoised - skip * x) / (sigma * self.sigma_data / total.sqrt())


def noise(seed, count=64):
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed))


def times(count=64, low=0.02, high=0.98):
    return torch.linspace(low, high, count)


def test_the_expected_image_is_the_posterior_mean():
    flow = Gaussian(0.3)
    xt, t = noise(0), times()
    expected = flow.image_behind(xt, t)
    torch.testing.assert_close(expected_image(flow.velocity, xt, t), expected, rtol=0, atol=1e-5)


def test_equal_distributions_leave_every_sample_where_it_is():
    flow = Gaussian(0.3)
    gradient = matching_gradient(flow.velocity, flow.velocity, noise(0), noise(1), times())
    assert not gradient.any()


def test_the_gradient_is_the_closed_form():
    """mu_fake - mu_real = (m_fake - m_real) (1 - t)^2 / q with q the variance of xt."""
    real, fake, x, x0, t = Gaussian(-0.4), Gaussian(0.6), noise(0), noise(1), times()
    time = t[:, None, None, None]
    variance = time**2 * SPREAD**2 + (1 - time) ** 2
    difference = (1 - time) ** 2 / variance
    xt = (1 - time) * x0 + time * x
    scale = (x - real.image_behind(xt, t)).abs().mean((1, 2, 3), keepdim=True)
    found = matching_gradient(real.velocity, fake.velocity, x, x0, t)
    expected = (difference / scale).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_steps_against_it_move_samples_onto_the_wanted_distribution():
    """The fake flow follows the samples exactly here, as a fake network should."""
    real, x = Gaussian(-0.4), 0.8 + 0.2 * noise(0, 512)
    for step in range(300):
        fake = Gaussian(float(x.mean()), float(x.std()))
        t = 0.02 + 0.96 * torch.rand(512, generator=torch.Generator().manual_seed(step))
        gradient = matching_gradient(real.velocity, fake.velocity, x, noise(step + 1, 512), t)
        x = x - 0.05 * gradient
    assert float(x.mean()) == pytest.approx(-0.4, abs=0.02)
    assert float(x.std()) == pytest.approx(SPREAD, abs=0.05)


def test_edms_networks_give_the_same_gradient():
    """The flow of an EDM teacher says the same as the rectified flow of the same images."""
    x, x0, t = noise(0), noise(1), times()
    fake = Gaussian(0.6)
    edm = EDMFlow(GaussianDenoiser(-0.4), IMAGE)
    ours = matching_gradient(Gaussian(-0.4).velocity, fake.velocity, x, x0, t)
    theirs = matching_gradient(edm.velocity, fake.velocity, x, x0, t)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    mixed = matching_gradient(edm.velocity, edm.velocity, x, x0, t)
    assert not mixed.any()


def test_the_loss_hands_the_gradient_to_the_images():
    x = noise(0, 4).requires_grad_()
    gradient = noise(1, 4)
    loss = matching_loss(x, gradient)
    torch.testing.assert_close(loss, 0.5 * gradient.square().mean((1, 2, 3)))
    (handed,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close(handed, gradient / math.prod(x.shape[1:]))


def test_a_teacher_that_agrees_exactly_makes_no_infinity():
    """Where x is what the teacher expects, the gradient is divided by a small number, not by 0."""

    def still(xt, t, label):
        return (1.0 - xt) / (1 - t)[:, None, None, None]

    x = torch.ones(3, 2, 3, 3)
    assert matching_gradient(still, still, x, noise(0, 3), times(3, 0.5, 0.6)).isfinite().all()


# Closed forms: data N(0, s^2), student x = a z, and the exact flow of what it makes now.

REAL_SPREAD, MADE_SPREAD = 1.3, 0.7


def variance(spread, t):
    return t**2 * spread**2 + (1 - t) ** 2


def share(spread, t):
    """The expected image is this much of xt."""
    return t * spread**2 / variance(spread, t)


def exact(spread):
    def velocity(xt, t, label=None):
        return (share(spread, t)[:, None, None, None] - 1) * xt / (1 - t)[:, None, None, None]

    return velocity


class Quadrature:
    """Every z and x0 that an expectation needs, in float64; `mean` is exact for polynomials."""

    def __init__(self, t, made=MADE_SPREAD, nodes=24):
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        both = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
        self.z, self.x0 = torch.tensor(both).T[..., None, None, None].contiguous()
        self.weights = torch.tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
        self.t = torch.full((len(self.z),), t, dtype=torch.float64)
        self.a = torch.tensor(made, dtype=torch.float64, requires_grad=True)
        self.x = self.a * self.z

    def mean(self, values):
        return (self.weights * values).sum()

    def scale(self, real):
        """1 / w of each sample."""
        xt = (1 - self.t)[:, None, None, None] * self.x0 + self.t[:, None, None, None] * self.x
        return (self.x - expected_image(real, xt, self.t)).detach().abs().flatten()

    def by_a(self, loss):
        return float(torch.autograd.grad(loss, self.a, retain_graph=True)[0])


@pytest.fixture(params=[0.1, 0.45, 0.9])
def known(request):
    """(quadrature, real, fake, t, A_s, A_a, V_a)"""
    t = request.param
    flows = exact(REAL_SPREAD), exact(MADE_SPREAD)
    shares = share(REAL_SPREAD, t), share(MADE_SPREAD, t)
    return Quadrature(t), *flows, t, *shares, variance(MADE_SPREAD, t)


def test_dmd_without_its_weight_is_the_derivative_of_the_divergence(known):
    """ta (A_a - A_s) = ((1 - t) / t)^2 dKL/da, of the noised student from the noised data."""
    q, real, fake, t, a_real, a_fake, made = known
    gradient = matching_gradient(real, fake, q.x.detach(), q.x0, q.t).flatten() * q.scale(real)
    found = q.by_a(q.mean(gradient * q.x.flatten()))
    a = MADE_SPREAD
    assert found == pytest.approx(t * a * (a_fake - a_real), abs=1e-8)
    by_a = t**2 * a * (1 / variance(REAL_SPREAD, t) - 1 / made)
    assert found == pytest.approx(((1 - t) / t) ** 2 * by_a, abs=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
def test_score_identity_has_its_gradient_through_both_flows(known, alpha):
    q, real, fake, t, a_real, a_fake, made = known
    loss = score_identity_loss(real, fake, q.x, q.x0, q.t, alpha=alpha)
    mean = q.mean(loss * q.scale(real))
    squared = (a_real - a_fake) ** 2 * made
    assert float(mean.detach()) == pytest.approx((1 - alpha) * squared, abs=1e-8)
    a = MADE_SPREAD
    mixed = 1 - t * ((1 - alpha) * a_real + alpha * a_fake)
    assert q.by_a(mean) == pytest.approx(2 * mixed * t * a * (a_fake - a_real), abs=1e-8)


def test_at_one_half_it_is_half_the_derivative_of_the_flows_squared_difference(known):
    q, real, fake, t, a_real, *_ = known
    loss = q.mean(score_identity_loss(real, fake, q.x, q.x0, q.t, alpha=0.5) * q.scale(real))
    a = torch.tensor(MADE_SPREAD, dtype=torch.float64, requires_grad=True)
    squared = (a_real - share(a, t)) ** 2 * variance(a, t)  # the fake flow follows the student
    assert q.by_a(loss) == pytest.approx(float(torch.autograd.grad(squared, a)[0]) / 2, abs=1e-8)


def test_the_identity_of_velocities_is_that_of_images_at_one_half(known):
    q, real, fake, t, *_ = known
    images = score_identity_loss(real, fake, q.x, q.x0, q.t, alpha=0.5) * q.scale(real)
    velocities = velocity_identity_loss(real, fake, q.x, q.x0, q.t)
    torch.testing.assert_close(velocities, 2 / (1 - t) ** 2 * images, rtol=1e-8, atol=1e-8)
    found = q.by_a(q.mean(velocities)), q.by_a(q.mean(images))
    assert found[0] == pytest.approx(2 / (1 - t) ** 2 * found[1], rel=1e-8)


def test_a_ratio_makes_the_step_of_the_forward_divergence():
    """With the exact ratio, E[r g dx/da] = (1 - t)^2 a (V_a - V_s) / V_a^2."""
    t, real_spread, a = 0.4, 0.9, 0.8
    q, real = Quadrature(t, a, nodes=60), exact(real_spread)
    wanted, made = variance(real_spread, t), variance(a, t)
    xt = ((1 - t) * q.x0 + t * q.x).detach().flatten()
    logit = 0.5 * math.log(made / wanted) - xt**2 / 2 * (1 / wanted - 1 / made)
    step = matching_gradient(real, exact(a), q.x.detach(), q.x0, q.t).flatten() * q.scale(real)
    found = q.by_a(q.mean(divergence_weight(logit, "kl") * step * q.x.flatten()))
    assert found == pytest.approx((1 - t) ** 2 * a * (made - wanted) / made**2, abs=1e-6)
    at = torch.tensor([0.0, math.log(3.0), 50.0, -50.0], dtype=torch.float64)
    assert divergence_weight(at, "kl").tolist() == pytest.approx([1, 3, 20, 0.1])
    assert divergence_weight(at, "js").tolist() == pytest.approx([1 / 2, 3 / 4, 20 / 21, 0.1 / 1.1])
    assert divergence_weight(at, "hellinger").tolist() == pytest.approx(
        [1, math.sqrt(3), math.sqrt(20), math.sqrt(0.1)]
    )


def test_edms_weight_of_velocities_is_its_own_of_images():
    x, x0, t = noise(0).double(), noise(1).double(), times(high=0.9).double()
    real, time = exact(REAL_SPREAD), t[:, None, None, None]
    xt = (1 - time) * x0 + time * x
    images = squared_distance(expected_image(real, xt, t), x)
    sigma = (1 - t) / t
    velocities = squared_distance(real(xt, t), x - x0)
    torch.testing.assert_close(edm_weight(t) * velocities, (sigma**-2 + 4) * images)


def test_a_loss_through_images_leaves_the_networks_alone():
    judge, x = nn.Conv2d(2, 2, 3, padding=1), noise(0, 4).requires_grad_()
    expected = torch.autograd.grad(judge(x).square().mean(), x)[0]
    loss = through_images(x, lambda x: judge(x).square().mean())
    loss.backward()
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(loss, judge(x).square().mean())
    assert all(weight.grad is None for weight in judge.parameters())
