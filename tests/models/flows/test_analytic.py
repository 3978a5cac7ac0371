import pytest
import torch

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.path import interpolate


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=6, channels=1, size=2):
    return torch.rand(count, channels, size, size, generator=generator()) * 2 - 1


def reference(points, bandwidth, x, t):
    """v = E[x1 - x0 | xt] from the joint density of one pixel by numerical integration."""
    x1 = torch.linspace(-6, 6, 40_001, dtype=torch.float64)
    density = torch.zeros_like(x1)
    for point in points.double():
        density += torch.exp(-((x1 - point) ** 2) / (2 * bandwidth**2))
    x0 = (x - t * x1) / (1 - t)
    weight = density * torch.exp(-(x0**2) / 2)
    return float((weight * (x1 - x0)).sum() / weight.sum())


@pytest.mark.parametrize("t", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("bandwidth", [0.05, 0.5])
def test_velocity_is_the_conditional_expectation(bandwidth, t):
    points = torch.tensor([-0.8, 0.1, 0.4])
    flow = AnalyticFlow(points.view(3, 1, 1, 1), bandwidth=bandwidth)
    x = torch.tensor([-1.5, 0.0, 0.3, 2.0], dtype=torch.float64)
    velocity = flow.velocity(x.view(4, 1, 1, 1), torch.full((4,), t, dtype=torch.float64))
    expected = [reference(points, bandwidth, float(point), t) for point in x]
    torch.testing.assert_close(
        velocity.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )


def test_one_gaussian_has_a_linear_flow():
    """xt = t mu + sqrt(q) z along a trajectory, so the map x0 -> x1 is mu + s x0."""
    mean, s = images(1), 0.3
    flow = AnalyticFlow(mean, bandwidth=s)
    x0 = torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=generator())
    for t in (0.0, 0.3, 0.8, 1.0):
        q = t * t * s * s + (1 - t) ** 2
        xt = t * mean + q**0.5 * x0
        slope = (t * s * s - (1 - t)) / q**0.5
        velocity = flow.velocity(xt, torch.full((5,), t, dtype=torch.float64))
        torch.testing.assert_close(velocity, mean + slope * x0, rtol=1e-6, atol=1e-6)


def test_ends():
    data = images()
    xt = torch.randn(4, 1, 2, 2, generator=generator(1))
    for bandwidth in (0.0, 0.2):
        flow = AnalyticFlow(data, bandwidth=bandwidth)
        at_noise = flow.velocity(xt, torch.zeros(4))
        torch.testing.assert_close(at_noise, data.mean(0, keepdim=True) - xt)
        torch.testing.assert_close(flow.velocity(xt, torch.ones(4)), xt)


@pytest.mark.parametrize("gap", [0.1, 0.03])
def test_weights_of_similar_images_are_right(gap):
    """Pairs of images 0.003 apart: all-float32 weights would move m by 1e-5 here."""
    base = images(30, channels=3, size=32)
    data = torch.cat((base, base + 0.003 * torch.randn(base.shape, generator=generator(1))))
    x0 = torch.randn(30, 3, 32, 32, generator=generator(2))
    t = torch.full((30,), 1.0 - gap, dtype=torch.float64)
    xt = interpolate(x0.double(), base.double(), t)
    d = xt.flatten(1)[:, None] - (1 - gap) * data.flatten(1).double()
    weights = (-d.square().sum(2) / (2 * gap**2)).softmax(dim=1)
    mean = (weights @ data.flatten(1).double()).view_as(xt)
    assert weights.amax(1).min() < 0.99
    # v = (m - xt) / (1 - t) for bandwidth 0
    found = xt + gap * AnalyticFlow(data).velocity(xt, t)
    torch.testing.assert_close(found, mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_close_to_an_image_the_velocity_points_at_it(gap):
    data = images(500, channels=3, size=16)
    x0 = torch.randn(8, 3, 16, 16, generator=generator(1))
    t = torch.full((8,), 1.0 - gap, dtype=torch.float64)
    xt = interpolate(x0.double(), data[:8].double(), t)
    velocity = AnalyticFlow(data).velocity(xt, t)
    expected = data[:8].double() - x0
    # Bandwidth 0 stands for 1e-5, which shows where 1 - t is smaller.
    if gap > 1e-5:
        torch.testing.assert_close(velocity, expected, rtol=0, atol=0.05)
    assert velocity.isfinite().all()
    assert velocity.abs().max() < 10


def test_pieces_and_whole_agree():
    data = images(300, channels=1, size=4)
    xt, t = torch.randn(7, 1, 4, 4, generator=generator()), torch.linspace(0, 1, 7)
    whole = AnalyticFlow(data, bandwidth=0.1).velocity(xt, t)
    pieces = AnalyticFlow(data, bandwidth=0.1, chunk=17).velocity(xt, t)
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=1e-6)


def test_a_class_is_the_flow_of_its_images():
    data = images(30, channels=1, size=3)
    label = torch.arange(30) % 4
    flow = AnalyticFlow(data, label, classes=5, bandwidth=0.1)
    assert flow.image.classes == 5
    xt, t = torch.randn(6, 1, 3, 3, generator=generator()), torch.rand(6, generator=generator())
    wanted = torch.tensor([3, 0, 3, 1, 0, 2])
    velocity = flow.velocity(xt, t, wanted)
    for row, c in enumerate(wanted.tolist()):
        alone = AnalyticFlow(data[label == c], bandwidth=0.1)
        expected = alone.velocity(xt[row : row + 1], t[row : row + 1])
        torch.testing.assert_close(velocity[row : row + 1], expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="no image of class 4"):
        flow.velocity(xt, t, torch.full((6,), 4))


def test_it_minimises_the_flow_matching_loss():
    """No other field does better on the flow-matching loss: shift it and the loss grows."""
    from slimctl.models.losses import flow_matching_loss

    data = images(5)
    flow = AnalyticFlow(data, bandwidth=0.2)
    count = 20_000
    x1 = data[torch.arange(count) % 5] + 0.2 * torch.randn(count, 1, 2, 2, generator=generator(2))
    x0 = torch.randn(count, 1, 2, 2, generator=generator(1))
    t = (torch.arange(count) + 0.5) / count
    t = t[torch.randperm(count, generator=generator(3))]
    best = flow_matching_loss(flow.velocity, x0, x1, t).mean()
    for shift in (0.1, -0.1):

        def shifted(xt, t, label, shift=shift):
            return flow.velocity(xt, t, label) + shift * xt

        assert flow_matching_loss(shifted, x0, x1, t).mean() > best


def test_bad_data_is_refused():
    data = images(3)
    for arguments, message in [
        ((data[:0],), "give square ones"),
        ((data, torch.tensor([0, 1, 2])), "go together"),
        ((data, None, 3), "go together"),
        ((data, torch.tensor([0, 1, 3]), 3), "one per image"),
        ((data, None, 0, -1.0), "bandwidth is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            AnalyticFlow(*arguments)


def test_it_moves_to_a_device_as_a_module():
    flow = AnalyticFlow(images())
    assert [name for name, _ in flow.named_buffers()] == ["points", "half_squares"]
