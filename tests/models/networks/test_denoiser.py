"""A student that begins as a flow's image at one noise level, where the flow is known."""

import pytest
import torch
from torch import nn

from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.denoiser.network import Denoiser
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=4)
SIGMA, SPREAD, MEAN = 2.5, 0.5, -0.4
X0 = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.zeros(5)
EDM = Parameterisation(prediction="edm", schedule={"kind": "edm"})
MLP = {"kind": "mlp", "width": 8}


class ExactDenoiser(nn.Module):
    """EDM's F of N(mean, spread^2)."""

    def forward(self, scaled, noise, label):
        sigma = (4.0 * noise).exp()[:, None, None, None]
        total = sigma**2 + 0.25
        x = scaled * total.sqrt()
        denoised = MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)
        return (denoised - 0.25 / total * x) / (sigma * 0.5 / total.sqrt())


def test_it_makes_the_image_that_the_flow_expects():
    """At sigma 2.5, t = 2/7: E[x1 | x1 + sigma n] of a Gaussian."""
    spec = DenoiserSpec(network=MLP, flow=EDM, sigma=SIGMA)
    made = Denoiser(spec, IMAGE)
    made.flow.network = ExactDenoiser()
    share = SPREAD**2 / (SPREAD**2 + SIGMA**2)
    expected = MEAN + share * (SIGMA * X0 - MEAN)
    torch.testing.assert_close(X0 + made(X0, T), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flow", [Parameterisation(), EDM], ids=["velocity", "edm"])
def test_its_network_is_the_flows_and_it_stands_in_a_file_as_it_is(flow):
    spec = DenoiserSpec(network=MLP, flow=flow, sigma=SIGMA)
    assert parse_network(spec.model_dump(mode="json")) == spec
    torch.manual_seed(0)
    made, other = spec.build(IMAGE), parse_network(MLP).build(IMAGE)
    other.load_state_dict(made.network.state_dict())
    t, point = torch.full((5,), 2 / 7), 5 / 7 * X0
    opened = EDMFlow(other, IMAGE) if flow.denoises else NetworkFlow(other, IMAGE)
    velocity = opened.velocity(point, t)
    torch.testing.assert_close(X0 + made(X0, T), point + 5 / 7 * velocity)
    assert torch.equal(made(X0, T + 0.5), made(X0, T))
