"""The critic's losses where they are known: one point, two Gaussians, and a line."""

import math

import numpy as np
import pytest
import torch

from slimctl.models.networks.image_critic.spec import ImageCriticSpec
from slimctl.models.relativistic import calibration_loss, relativistic_loss, squared_slope
from slimctl.models.spec import ImageShape


def velocities(psi, theta, penalty):
    """Gradient descent of D = psi x on images at 0, and of a student that makes theta."""
    psi, theta = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (psi, theta))
    made = theta.detach().reshape(1, 1, 1, 1).requires_grad_()
    real = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    below, above = (psi * made).flatten(), (psi * real).flatten()
    slopes = squared_slope(below, made) + squared_slope(above, real)
    critic = relativistic_loss(above, below) + penalty / 2 * slopes
    student = relativistic_loss((psi.detach() * theta)[None], torch.zeros(1).double())
    (by_psi,) = torch.autograd.grad(critic.sum(), psi)
    (by_theta,) = torch.autograd.grad(student.sum(), theta)
    return -float(by_psi), -float(by_theta)


@pytest.mark.parametrize("penalty", [0.0, 0.2, 0.5, 1.3])
def test_a_point_is_approached_as_the_eigenvalues_say(penalty):
    """-penalty +- sqrt(penalty^2 - 1/4): without a penalty the two run round in circles."""
    h = 1e-5
    columns = [velocities(h, 0.0, penalty), velocities(0.0, h, penalty)]
    found = np.linalg.eigvals(np.array(columns).T / h)
    root = np.emath.sqrt(penalty**2 - 0.25)
    expected = np.array([-penalty - root, -penalty + root], dtype=complex)
    found = np.sort_complex(found.astype(complex))
    np.testing.assert_allclose(found, np.sort_complex(expected), atol=1e-4)


def test_a_perfect_critic_knows_the_log_ratio_up_to_a_constant_which_is_then_found():
    """On a grid: p and q are Gaussians, and neither loss moves at D = ln p / q + c, offset c."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    p, q = (torch.exp(-((x - m) ** 2) / 2 / s**2) / s for m, s in ((0.5, 1.0), (-0.3, 1.2)))
    p, q = p / p.sum(), q / q.sum()
    number = ((p / q).log() + 0.7).requires_grad_()
    real, made = (each.flatten() for each in torch.meshgrid(number, number, indexing="ij"))
    chance = (p[:, None] * q[None, :]).flatten()
    pairs = chance @ relativistic_loss(real, made)
    (moves,) = torch.autograd.grad(pairs, number, retain_graph=True)
    assert float(moves.abs().max()) < 1e-12
    offset = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    there, away = (
        torch.autograd.grad(chance @ calibration_loss(real, made, at.expand(len(real))), offset)[0]
        for at in (offset, offset + 0.1)
    )
    assert abs(float(there)) < 1e-12
    assert float(away) > 1e-3


def test_the_slope_is_the_sum_over_pixels_of_each_image_alone():
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64).requires_grad_()
    weight = torch.randn(2, 4, 4, dtype=torch.float64)
    said = (weight * images.square()).flatten(1).sum(1)
    expected = (2 * weight * images).square().flatten(1).sum(1)
    torch.testing.assert_close(squared_slope(said, images), expected)
    (even,) = relativistic_loss(torch.tensor([2.0]), torch.tensor([2.0])).tolist()
    assert even == pytest.approx(math.log(2))


IMAGE = ImageShape(channels=3, size=9, classes=4)


@pytest.fixture
def critic():
    torch.manual_seed(0)
    made = ImageCriticSpec(channels=8, channel_multipliers=(1, 2, 3)).build(IMAGE)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made


def test_an_image_is_judged_by_itself_and_by_its_time_and_class(critic):
    x, t, label = torch.randn(4, 3, 9, 9), torch.rand(4), torch.arange(4)
    said = critic(x, t, label)
    assert said.shape == (4, 2)
    torch.testing.assert_close(critic(x[1:2], t[1:2], label[1:2]), said[1:2])
    assert not torch.allclose(critic(x, 1 - t, label)[:, 0], said[:, 0])
    assert not torch.allclose(critic(x, t, label.flip(0))[:, 0], said[:, 0])
    torch.testing.assert_close(critic(x, t, label.flip(0))[:, 1], said[:, 1])


def test_the_penalty_trains_the_weights(critic):
    """Against differences: the gradient of a gradient, through the whole network."""
    x, t, label = torch.randn(2, 3, 9, 9).double(), torch.rand(2).double(), torch.arange(2)
    critic = critic.double()

    def slope():
        point = x.clone().requires_grad_()
        return squared_slope(critic(point, t, label)[:, 0], point).sum()

    weight = critic.levels[0][0].conv_in.weight
    (found,) = torch.autograd.grad(slope(), weight)
    with torch.no_grad():
        direction = torch.randn_like(weight)
    values = []
    for h in (1e-6, -1e-6):
        with torch.no_grad():
            weight.add_(h * direction)
        values.append(float(slope().detach()))
        with torch.no_grad():
            weight.sub_(h * direction)  # back again
    expected = (values[0] - values[1]) / 2e-6
    assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-4)


def test_the_critic_learns_to_tell_two_sets_apart():
    torch.manual_seed(1)
    image = ImageShape(channels=1, size=8)
    critic = ImageCriticSpec(channels=8).build(image)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.0, 0.99))
    for _ in range(60):
        made, real = 0.5 * torch.randn(16, 1, 8, 8), 0.5 * torch.randn(16, 1, 8, 8) + 0.3
        point = torch.cat((made, real)).requires_grad_()
        said, offset = critic(point, torch.ones(32)).unbind(1)
        below, above = said.chunk(2)
        loss = relativistic_loss(above, below) + calibration_loss(above, below, offset[:16])
        optimizer.zero_grad()
        (loss + 0.01 * squared_slope(said, point).view(2, -1).sum(0)).mean().backward()
        optimizer.step()
    assert float((above - below).detach().mean()) > 1.0
