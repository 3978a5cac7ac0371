"""Guidance, against the closed form of a labelled mixture of Gaussians."""

import pytest
import torch
from mixture import mixture_behind

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import make_flow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EDMHeunSpec, EulerSpec, GridSpec, HeunSpec, RK45Spec
from slimctl.models.spec import ImageShape

LABEL = torch.tensor([0, 0, 1, 1, 1])
W = 3.0


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(5, 1, 2, 2)


@pytest.fixture
def flow(images):
    return AnalyticFlow(images, LABEL, 2, bandwidth=0.3)


def points():
    torch.manual_seed(1)
    return torch.randn(4, 1, 2, 2), torch.tensor([0.0, 0.3, 0.7, 1.0]), torch.tensor([0, 1, 1, 0])


def closed_form(images, xt, t, bandwidth=0.3):
    """v of the mixture of all images: E[x1 - x0 | xt], written down once more in float64."""
    x, mu = xt.double().flatten(1), images.double().flatten(1)
    time = t.double()[:, None]
    spread = time**2 * bandwidth**2 + (1 - time) ** 2
    away = x[:, None] - time[:, None] * mu
    weight = torch.softmax(-away.square().sum(2) / (2 * spread), 1)
    pull = (time * bandwidth**2 - (1 - time)) / spread
    each = mu + pull[:, None] * away
    return (weight[:, :, None] * each).sum(1).view_as(xt)


def test_it_is_exact_for_a_labelled_mixture(flow, images):
    xt, t, label = points()
    guided = flow.guided(W).velocity(xt, t, label)
    for row in range(4):
        one = slice(row, row + 1)
        own = closed_form(images[label[row] == LABEL], xt[one], t[one])
        every = closed_form(images, xt[one], t[one])
        wanted = every + W * (own - every)
        assert torch.allclose(guided[one].double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_scale_of_one_changes_no_bit_and_costs_nothing(flow):
    xt, t, label = points()
    same = flow.guided(1.0)
    assert torch.equal(same.velocity(xt, t, label), flow.velocity(xt, t, label))
    assert same.evaluations == 1


def test_outside_its_interval_no_bit_changes(flow):
    xt, t, label = points()
    part = flow.guided(W, interval=(0.2, 0.8)).velocity(xt, t, label)
    whole, plain = flow.guided(W).velocity(xt, t, label), flow.velocity(xt, t, label)
    assert torch.equal(part[1:3], whole[1:3])
    assert torch.equal(part[[0, 3]], plain[[0, 3]])


def test_a_weaker_flow_is_driven_away_from(flow, images):
    xt, t, label = points()
    weaker = AnalyticFlow(images, LABEL, 2, bandwidth=0.6)
    made = flow.guided(2.0, weaker=weaker).velocity(xt, t, label)
    strong, weak = flow.velocity(xt, t, label), weaker.velocity(xt, t, label)
    assert torch.equal(made, weak + 2.0 * (strong - weak))


@pytest.mark.parametrize(
    "solver",
    [
        EulerSpec(steps=3),
        HeunSpec(steps=3),
        RK45Spec(tolerance=1e-2),
        GridSpec(times=(0.0, 0.5), weights=((0.5,), (0.5, 0.5))),
    ],
    ids=lambda solver: solver.kind,
)
def test_every_solver_counts_both_evaluations(flow, solver):
    x0, _, label = points()
    guided, calls = flow.guided(W), []
    velocity = flow._velocity

    def counted(xt, t, label):
        calls.append(len(xt))
        return velocity(xt, t, label)

    flow._velocity = counted
    assert int(solve(solver, guided, x0, label).nfe.sum()) == sum(calls)


def test_a_guided_denoiser_still_has_noise_levels():
    how = Parameterisation(prediction="edm", schedule=EDMSchedule())
    flow, weaker = mixture_behind(how), mixture_behind(how)
    guided = flow.guided(2.0, weaker=weaker)
    x0 = torch.randn(3, flow.image.channels, flow.image.size, flow.image.size)
    spec = EDMHeunSpec(steps=4)
    made, plain = solve(spec, guided, x0), solve(spec, flow, x0)
    assert torch.allclose(made.x1, plain.x1, atol=1e-4)  # away from itself is nowhere
    assert made.nfe.tolist() == [14] * 3


def test_a_network_is_guided_by_its_null_class():
    image = ImageShape(channels=1, size=2, classes=2)
    network = MLPSpec(width=8, null_class=True).build(image)
    flow = make_flow(network, image, Parameterisation(null_class=2))
    xt, t, label = points()
    null = flow.velocity(xt, t, torch.full_like(label, 2))
    own = flow.velocity(xt, t, label)
    assert torch.equal(flow.guided(W).velocity(xt, t, label), null + W * (own - null))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": -1.0}, "scale is -1.0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": 2.0, "interval": (0.8, 0.2)}, "interval is"),
        ({"scale": 2.0, "negative": torch.zeros(4)}, "no opposite.*\n.*leave negative out"),
    ],
)
def test_what_makes_no_sense_is_refused(flow, arguments, message):
    if isinstance(arguments.get("negative"), torch.Tensor):
        arguments = arguments | {"negative": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        flow.guided(**arguments)


def test_a_flow_without_a_null_class_is_refused_with_the_fix(flow):
    plain = NetworkFlow(torch.nn.Identity(), flow.image)
    with pytest.raises(ValueError, match=r"no null class.*\n.*label_dropout"):
        plain.guided(2.0)
    other = NetworkFlow(torch.nn.Identity(), ImageShape(channels=3, size=2))
    with pytest.raises(ValueError, match="the weaker flow is of 2 x 2 x 3"):
        plain.guided(2.0, weaker=other)
