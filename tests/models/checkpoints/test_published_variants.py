"""Networks of other sizes, depths and attention than the published ones, in the published formats.

Each is written as its authors' code does and read back without being said anything.
"""

import pytest
import torch

from slimctl.models.checkpoints import load_teacher
from slimctl.models.checkpoints.load import read_teacher
from slimctl.models.checkpoints.teacher import Overrides
from slimctl.models.networks import edm_weights
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.edm_weights import FILTER
from slimctl.models.networks.song_unet import slimflow_weights
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def image(channels=3, size=32, classes=0):
    return ImageShape(channels=channels, size=size, classes=classes)


def compare(flow, network, shape, evaluate):
    label = torch.arange(2) % shape.classes if shape.classes else None
    x, t = torch.randn(2, shape.channels, shape.size, shape.size), torch.rand(2)
    assert flow.image == shape
    assert torch.equal(evaluate(flow, x, t, label), network(x, t, label))


def velocity(flow, x, t, label):
    return flow.velocity(x, t, label)


NCSNPP = [
    ({"channels": 8, "blocks": 2}, image()),
    ({"channels": 8, "channel_multipliers": (1, 1, 2), "blocks": 1}, image(size=64)),
    ({"channels": 12, "channel_multipliers": (2, 3), "blocks": 1}, image(channels=1)),
    ({"channels": 4, "channel_multipliers": (1, 2, 2, 2), "blocks": 4}, image()),
    ({"channels": 4, "channel_multipliers": (1, 1, 1, 1), "blocks": 1}, image(size=64)),
    ({"channels": 8, "channel_multipliers": (2,), "blocks": 2}, image(channels=2, size=16)),
]


@pytest.mark.parametrize("number", range(len(NCSNPP)))
def test_ncsnpp_of_slimflow(number, published, randomised, checkpoint_of, save, monkeypatch):
    (fields, shape), parallel = NCSNPP[number], number % 2
    spec = SongUNetSpec(**fields)
    network = randomised(spec.build(shape))
    state = published(network, slimflow_weights.sources(network))
    model = {f"module.{name}": value for name, value in state.items()} if parallel else state
    if parallel:  # as a machine with several GPUs writes them
        monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = save(checkpoint_of(model, state))
    read = read_teacher(path, Overrides())
    assert read.network == spec
    compare(read.flow(), network, shape, velocity)
    assert "makes it" in read.assumed


@pytest.mark.parametrize(
    ("attention", "size", "given"),
    [((32, 16), 32, None), ((16, 8), 32, None), ((), 32, None), ((8,), 32, 32), ((16,), 28, 28)],
)
def test_an_image_size_that_attention_does_not_tell(
    attention, size, given, published, randomised, checkpoint_of, save
):
    spec = SongUNetSpec(channels=4, blocks=1, attention_resolutions=attention)
    network = randomised(spec.build(image(size=size)))
    state = published(network, slimflow_weights.sources(network))
    path = save(checkpoint_of(state, state))
    read = read_teacher(path, Overrides(size=given))
    compare(read.flow(), network, image(size=size), velocity)
    assert bool(read.undecided) == (given is None)
    assert given is not None or "no tensor tells the size of the images" in read.undecided


ADM = [
    ({"channels": 16, "channel_multipliers": (1, 4), "blocks": 1}, image(classes=5, size=16)),
    ({"channels": 64, "channel_multipliers": (1, 2), "blocks": 1}, image(channels=1)),
    (
        {"channels": 32, "channel_multipliers": (1, 2, 3), "blocks": 2},
        image(size=32, classes=100),
    ),
    (
        {"channels": 32, "channel_multipliers": (2,), "blocks": 3},
        image(channels=2, size=8, classes=1),
    ),
    ({"channels": 64, "channel_multipliers": (1, 1), "blocks": 1}, image(channels=1, size=28)),
]


@pytest.mark.parametrize("number", range(len(ADM)))
def test_adm_of_slimflow(number, published, randomised, checkpoint_of, save):
    (fields, shape), attention = ADM[number], ((16, 8), (), (14,))[number % 3]
    spec = ADMSpec(**fields, attention_resolutions=attention)
    network = randomised(spec.build(shape))
    state = published(network, edm_weights.sources(network, shape.size))
    compare(load_teacher(save(checkpoint_of(state, state))), network, shape, velocity)


DDPMPP = {"time_scale": 1.0, "label_entry": "features"}
FOURIER = {
    "embedding": "fourier",
    "feature_multiplier": 2,
    "resampling": "binomial",
    "encoder": "residual",
}
EDM = [
    (SongUNetSpec(channels=8, channel_multipliers=(2, 2), augment=9, **DDPMPP), image()),
    (SongUNetSpec(channels=8, blocks=1, embedding_multiplier=2, **DDPMPP), image(1, 28, 3)),
    (SongUNetSpec(channels=8, blocks=1, **DDPMPP, **FOURIER), image(3, 32, 10)),
    (SongUNetSpec(channels=4, channel_multipliers=(1,), blocks=3, **DDPMPP), image(2, 16)),
    (ADMSpec(channels=64, channel_multipliers=(1, 2), blocks=1, time_scale=1.0), image(3, 32, 9)),
    (ADMSpec(channels=32, blocks=1, augment=9, time_scale=1.0), image(1, 64)),
]


def as_edm(spec, shape, published, randomised):
    """Class, network and published tensors, with the filters that tell the resampling."""
    network = randomised(spec.build(shape))
    if isinstance(spec, ADMSpec):
        return "DhariwalUNet", network, published(network, edm_weights.sources(network, shape.size))
    state = published(network, edm_weights.sources(network, shape.size))
    if spec.resampling == "binomial":
        state[f"enc.{shape.size // 2}x{shape.size // 2}_down.conv0{FILTER}"] = BINOMIAL[None, None]
    return "SongUNet", network, state


@pytest.mark.parametrize(("spec", "shape"), EDM)
def test_networks_of_edm(spec, shape, published, randomised, snapshot, monkeypatch):
    name, network, state = as_edm(spec, shape, published, randomised)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    flow = load_teacher(snapshot(name, state))

    def raw(flow, x, t, label):
        return flow.network(x, t, label)

    compare(flow, network, shape, raw)


def test_the_variance_preserving_network_of_edm(published, randomised, snapshot):
    """D = x - sigma F(x / sqrt(1 + sigma^2), 499 s(sigma)), s from the integral of beta."""
    name, network, state = as_edm(*EDM[3], published, randomised)
    path = snapshot(name, state, "VPPrecond", beta_d=10.0, beta_min=0.2, M=500, epsilon_t=1e-4)
    flow = load_teacher(path)
    s = torch.tensor([0.1, 0.9])
    sigma = (torch.exp(5.0 * s**2 + 0.2 * s) - 1).sqrt()
    x, level = torch.randn(2, 2, 16, 16), sigma[:, None, None, None]
    expected = x - level * network(x / (1 + level**2).sqrt(), 499 * s, None)
    assert torch.allclose(flow.denoise(x, sigma), expected, atol=1e-4)
    top = torch.tensor(5.2).exp().sub(1).sqrt()
    assert flow.sigma_max == pytest.approx(float(top))


def test_the_variance_exploding_network_of_edm(published, randomised, snapshot):
    """D = x + sigma F(x, ln(sigma / 2)): the network answers minus the noise."""
    name, network, state = as_edm(*EDM[2], published, randomised)
    path = snapshot(name, state, "VEPrecond", sigma_min=0.05, sigma_max=50.0)
    flow = load_teacher(path)
    sigma, label = torch.tensor([0.1, 9.0]), torch.tensor([3, 9])
    x, level = torch.randn(2, 3, 32, 32), sigma[:, None, None, None]
    expected = x + level * network(x, (sigma / 2).log(), label)
    assert torch.allclose(flow.denoise(x, sigma, label), expected, atol=1e-4)
    assert (flow.sigma_min, flow.sigma_max) == (0.05, 50.0)


def test_the_improved_ddpm_of_edm(published, randomised, snapshot):
    """D = x - sigma F[mean](x / sqrt(1 + sigma^2), M - 1 - j) at the nearest u_j."""
    spec, shape = EDM[4]
    name, network, state = as_edm(spec, shape, published, randomised)
    for part in ("weight", "bias"):
        mean = state[f"out_conv.{part}"]
        state[f"out_conv.{part}"] = torch.cat([mean, torch.randn_like(mean)])
    flow = load_teacher(snapshot(name, state, "iDDPMPrecond", M=100, C_1=0.001, C_2=0.008))
    u = torch.zeros(101, dtype=torch.float64)
    bar = torch.sin(0.5 * torch.pi * torch.arange(101, dtype=torch.float64) / 100 / 1.008) ** 2
    for j in range(100, 0, -1):
        u[j - 1] = ((u[j] ** 2 + 1) / (bar[j - 1] / bar[j]).clip(min=0.001) - 1).sqrt()
    sigma, label = torch.stack((0.6 * u[60] + 0.4 * u[61], u[3])).float(), torch.tensor([0, 8])
    x, level = torch.randn(2, 3, 32, 32), sigma[:, None, None, None]
    time = torch.tensor([39.0, 96.0])
    expected = x - level * network(x / (1 + level**2).sqrt(), time, label)
    assert torch.allclose(flow.denoise(x, sigma, label), expected, atol=1e-3)
    assert flow.image == shape
    assert flow.sigma_min == pytest.approx(float(u[99]))
    with pytest.raises(ValueError, match="C_1, C_2"):
        load_teacher(snapshot(name, state, "iDDPMPrecond", M=100, C_1=0.1, C_2=0.008))


def test_every_network_that_is_not_finite_is_named(published, randomised, checkpoint_of, save):
    network = randomised(SongUNetSpec(channels=4, blocks=1).build(image()))
    state = published(network, slimflow_weights.sources(network))
    state["all_modules.2.bias"][1] = torch.nan
    with pytest.raises(ValueError, match=r"holds NaN or infinity in stem\.bias"):
        load_teacher(save(checkpoint_of(state, state)))
