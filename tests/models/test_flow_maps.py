"""Mean velocities and consistency of Gaussian data: there x_r = xt sqrt(V_r / V_t)."""

import math
from itertools import pairwise

import onnxruntime
import pytest
import torch

from slimctl.models.flow_maps import (
    along_the_flow,
    consistency_end,
    consistency_error,
    mean_velocity_error,
)
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import one_step_velocity, squared_distance
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.two_times.network import TwoTimes
from slimctl.models.onnx_export import export_onnx
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

SPREAD = 1.3
IMAGE = ImageShape(channels=1, size=4)


def variance(t):
    return t**2 * SPREAD**2 + (1 - t) ** 2


def wide(values):
    return values[:, None, None, None]


def velocity(xt, t, label=None):
    return wide((t * SPREAD**2 - (1 - t)) / variance(t)) * xt


def exact(xt, t, end):
    """u* = xt (sqrt(V_r / V_t) - 1) / (r - t), and the velocity where there is no step."""
    length = torch.where(end > t, end - t, 1.0)
    mean = wide(((variance(end) / variance(t)).sqrt() - 1) / length) * xt
    return torch.where(wide(end > t), mean, velocity(xt, t))


def points(count=64, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(count, 1, 2, 2, generator=generator, dtype=dtype)
    times = torch.rand(2, count, generator=generator, dtype=dtype).sort(dim=0).values
    return xt, *(0.01 + 0.98 * times)


@pytest.mark.parametrize(("how", "accuracy"), [("jvp", 1e-10), ("finite_difference", 1e-4)])
def test_the_exact_mean_velocity_satisfies_its_equation(how, accuracy):
    """u = v + (r - t) du/dt, so that the loss of the exact one is 0."""
    xt, t, end = points()
    v = velocity(xt, t)
    derivative = along_the_flow(exact, xt, t, end, v, how)
    u = exact(xt, t, end)
    torch.testing.assert_close(u, v + wide(end - t) * derivative, rtol=0, atol=accuracy)
    error = mean_velocity_error(u, derivative, v, t, end, 0.0, 1.0)
    assert float(error.max()) < accuracy**2 * 4


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_its_gradient_is_the_closed_form(power):
    """Of c u*, the residual is (c - 1) v: the derivative by c is 2 (c - 1) v u* over the weight."""
    xt, t, end = points()
    c = torch.tensor(1.4, dtype=torch.float64, requires_grad=True)
    v = velocity(xt, t)
    derivative = along_the_flow(lambda *where: 1.4 * exact(*where), xt, t, end, v)
    u = c * exact(xt, t, end)
    mean_velocity_error(u, derivative, v, t, end, power, 1e-3).sum().backward()
    squared = (0.4 * v).square().sum((1, 2, 3))
    each = 2 * 0.4 * (v * exact(xt, t, end)).sum((1, 2, 3)) / (squared + 1e-3) ** power
    assert float(c.grad) == pytest.approx(float(each.sum()), abs=1e-8)


class ExactNetwork(torch.nn.Module):
    """The exact mean velocity as a network of two times."""

    takes_end = True

    def forward(self, xt, t, label, end):
        return exact(xt, t, end)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_gives_the_flow_itself(steps):
    x0, t, _ = points()
    flow = NetworkFlow(ExactNetwork(), ImageShape(channels=1, size=2))
    solution = solve(EulerSpec(steps=steps), flow, x0)
    torch.testing.assert_close(solution.x1, SPREAD * x0)
    assert solution.nfe.tolist() == [steps] * len(x0)
    torch.testing.assert_close(x0 + one_step_velocity(flow, x0), SPREAD * x0)
    assert torch.equal(flow.velocity(x0, t), velocity(x0, t))


# Networks of two times

FAMILIES = {
    "mlp": {"width": 8},
    "song_unet": {"channels": 8, "channel_multipliers": [1], "blocks": 1,
                  "attention_resolutions": [4]},
    "adm": {"channels": 8, "channel_multipliers": [1], "blocks": 1, "head_channels": 4},
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def network(request):
    torch.manual_seed(0)
    inner = {"kind": request.param, **FAMILIES[request.param]}
    made = parse_network({"kind": "two_times", "network": inner}).build(IMAGE).double().eval()
    for weight in made.network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return made


def test_a_network_of_two_times_begins_as_that_of_one(network):
    xt, t, end = torch.randn(5, 1, 4, 4).double(), *torch.rand(2, 5).double().sort(0).values
    assert isinstance(network, TwoTimes)
    assert torch.equal(network(xt, t, None, end), network.network(xt, t))
    torch.nn.init.normal_(network.end.out.weight)
    changed = network(xt, t, None, end)
    assert not torch.allclose(changed, network.network(xt, t))
    torch.testing.assert_close(network(xt, t), network(xt, t, None, torch.ones_like(t)))
    assert not network.network.time_layer._forward_hooks


def test_networks_are_differentiated_forward_as_by_differences(network):
    """Attention included, and with a gradient of the weights beside."""
    torch.nn.init.normal_(network.end.out.weight)
    xt, t, end = torch.randn(5, 1, 4, 4).double(), *torch.rand(2, 5).double().sort(0).values
    tangent = torch.randn_like(xt)

    def mean_velocity(x, begin, stop):
        return network(x, begin, None, stop)

    found = along_the_flow(mean_velocity, xt, t, end, tangent)
    assert not found.requires_grad
    step, largest = 1e-6, float(found.abs().max())
    with torch.no_grad():
        later = mean_velocity(xt + step * tangent, t + step, end)
        expected = (later - mean_velocity(xt - step * tangent, t - step, end)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * largest)
    rough = along_the_flow(mean_velocity, xt, t, end, tangent, "finite_difference")
    torch.testing.assert_close(found, rough, rtol=0, atol=1e-2 * largest)


def test_networks_of_two_times_have_an_onnx_form(tmp_path):
    network = parse_network({"kind": "two_times", "network": {"kind": "mlp"}}).build(IMAGE).eval()
    torch.nn.init.normal_(network.end.out.weight, std=0.1)
    flow = NetworkFlow(network, IMAGE)
    assert export_onnx(flow, tmp_path / "u.onnx", one_step=False).largest_difference < 1e-4
    names = [one.name for one in onnxruntime.InferenceSession(tmp_path / "u.onnx").get_inputs()]
    assert names == ["xt", "t", "end"]


# Consistency


@pytest.mark.parametrize(("steps", "end"), [(1, 0.0), (2, 0.628), (8, 1.102), (64, 1.274)])
def test_the_best_consistent_network_of_even_steps_is_known(steps, end):
    """f = a_t xt with a_t = a_r (t r s^2 + (1 - t)(1 - r)) / V_t, and a_1 = 1."""
    a = 1.0
    for r, t in pairwise(step / steps for step in range(steps, -1, -1)):
        a *= (t * r * SPREAD**2 + (1 - t) * (1 - r)) / variance(t)
    assert a == pytest.approx(end, abs=1e-3)


@pytest.mark.parametrize(("t", "r"), [(0.2, 0.5), (0.5, 0.8), (0.6, 1.0)])
def test_the_gradient_of_consistency_is_the_closed_form(t, r):
    """On lines of Gaussian data, 2 (a V_t - a_r C) / (1/t - 1/r) with C = t r s^2 + (1-t)(1-r)."""
    generator = torch.Generator().manual_seed(1)
    noise, data = torch.randn(2, 4000, 1, 1, 1, generator=generator, dtype=torch.float64)
    both = torch.stack((noise, data)).flatten(1)
    both = torch.linalg.solve(torch.linalg.cholesky(both @ both.T / 4000), both)  # exact moments
    x0, x1 = both[0, :, None, None, None], SPREAD * both[1, :, None, None, None]
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    times = torch.full((2, 4000), t, dtype=torch.float64)
    times[1] = r
    made, wanted = a * ((1 - t) * x0 + t * x1), 0.9 * ((1 - r) * x0 + r * x1)
    consistency_error(made, wanted, *times, squared_distance).mean().backward()
    shared = t * r * SPREAD**2 + (1 - t) * (1 - r)
    expected = 2 * (0.6 * variance(t) - 0.9 * shared) / (1 / t - 1 / r)
    assert float(a.grad) == pytest.approx(expected, abs=1e-8)


def test_points_come_nearer_stage_by_stage():
    t = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    ends = [consistency_end(t, stage) for stage in range(10)]
    assert ends[0][2] == 1.0  # little noise: the image itself at first
    assert all((later <= sooner).all() for sooner, later in pairwise(ends))
    assert all((end > t).all() for end in ends)
    sigma = 1.0
    kept = 1 - 2.0**-4 * (1 + 8 / (1 + math.e))
    assert float(ends[3][1]) == pytest.approx(1 / (1 + sigma * kept))
