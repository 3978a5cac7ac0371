"""The gradient of distribution matching on Gaussians, where both flows are known exactly."""

import math

import pytest
import torch
from torch import nn

from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.flows.flow import Flow
from slimctl.models.losses import expected_image, matching_gradient, matching_loss
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
