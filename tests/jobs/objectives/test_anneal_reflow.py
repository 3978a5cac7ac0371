import math

import pytest
import torch

from slimctl.jobs.base.context import Handles
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.objectives import anneal_reflow
from slimctl.jobs.objectives.anneal_reflow import AnnealedReflow
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.sources import PairSource
from slimctl.models.flows.spec import ConstantAnnealing, LinearAnnealing, UniformTime

CPU = torch.device("cpu")
NONE = ConstantAnnealing(value=0.0)


@pytest.fixture
def pairs(make_pairs, make_analytic, make_dataset):
    return make_pairs(make_analytic(make_dataset(count=6)), count=20)


@pytest.fixture
def make(store):
    def objective(pairs, annealing=NONE, flip=False, time=None):
        spec = AnnealReflow(
            pairs="pairs", network={"kind": "mlp", "width": 8}, steps=1, seed=5,
            annealing=annealing, time=time or UniformTime(), flip=flip,
        )  # fmt: skip
        return AnnealedReflow(spec, Handles(store, "", {"pairs": pairs}))

    return objective


@pytest.fixture
def taken(monkeypatch):
    """What the loss is taken of: (x0, x1, t, label) of each call."""
    calls = []
    real = anneal_reflow.flow_matching_loss

    def loss(network, x0, x1, t, label):
        calls.append((x0, x1, t, label))
        return real(network, x0, x1, t, label)

    monkeypatch.setattr(anneal_reflow, "flow_matching_loss", loss)
    return calls


@pytest.fixture
def of_step(store, pairs, share):
    """Pairs and fresh noise of a step, as nobody has changed them yet."""

    def take(step):
        draws = Draws(5, share(), pairs.image)
        x0, x1, _ = PairSource(store, pairs, CPU).batch(draws.samples(step, pairs.count))
        return x0, x1, draws.noise(step), draws.flips(step)

    return take


def test_the_exact_velocity_has_no_loss(
    store, make, make_pairs, make_analytic, make_dataset, share
):
    flow = make_analytic(make_dataset(count=1))
    objective = make(make_pairs(flow), LinearAnnealing(length=3), time=UniformTime(high=0.5))
    objective.prepare(share())
    exact = open_flow(store, flow, CPU)
    for step in range(4):  # x1 is rounded to float16
        assert float(objective.loss(exact.velocity, step)) < 1e-6
        assert float(objective.loss(lambda xt, t, _: xt, step)) > 0.1


def test_no_annealing_is_the_pairs_own_noise(make, pairs, share, taken, of_step, make_student):
    objective = make(pairs)
    objective.prepare(share())
    for step in (0, 3):
        objective.loss(make_student(), step)
        x0, x1, _, _ = of_step(step)
        assert torch.equal(taken[-1][0], x0)
        assert torch.equal(taken[-1][1], x1)


def test_full_annealing_is_fresh_noise(make, pairs, share, taken, of_step, make_student):
    objective = make(pairs, ConstantAnnealing(value=1.0))
    objective.prepare(share())
    for step in (0, 3):
        objective.loss(make_student(), step)
        _, x1, fresh, _ = of_step(step)
        assert torch.equal(taken[-1][0], fresh)
        assert torch.equal(taken[-1][1], x1)


def test_annealing_follows_its_schedule(make, pairs, share, taken, of_step, make_student):
    objective = make(pairs, LinearAnnealing(length=4))
    objective.prepare(share())
    for step, beta in enumerate([1.0, 0.75, 0.5, 0.25, 0.0, 0.0]):
        objective.loss(make_student(), step)
        x0, _, fresh, _ = of_step(step)
        mixed = math.sqrt(1 - beta**2) * x0 + beta * fresh
        torch.testing.assert_close(taken[-1][0], mixed)


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_noise_and_image_are_mirrored_together(
    make, pairs, share, taken, of_step, make_student, value
):
    objective = make(pairs, ConstantAnnealing(value=value), flip=True)
    objective.prepare(share())
    objective.loss(make_student(), 2)
    x0, x1, fresh, flips = of_step(2)
    assert flips.any()
    assert not flips.all()
    assert torch.equal(taken[0][1], mirror(x1, flips))
    own = math.sqrt(1 - value**2) * mirror(x0, flips)
    torch.testing.assert_close(taken[0][0], own + value * fresh)


def test_labels_of_the_pairs_reach_the_network(
    store, make, make_pairs, make_analytic, make_dataset, share, make_student
):
    pairs = make_pairs(make_analytic(make_dataset(count=9, classes=3), conditional=True), count=20)
    objective = make(pairs)
    objective.prepare(share())
    network = make_student(3)
    objective.loss(network, 1)
    index = Draws(5, share(), pairs.image).samples(1, 20)
    label = PairSource(store, pairs, CPU).batch(index)[2]
    assert torch.equal(network.calls[0][2], label)
    assert len(label.unique()) > 1


def test_flow_times_follow_their_density(make, pairs, share, taken, make_student):
    density = UniformTime(low=0.5, high=0.75)
    objective = make(pairs, time=density)
    objective.prepare(share())
    objective.loss(make_student(), 6)
    assert torch.equal(taken[0][2], Draws(5, share(), pairs.image).times(6, density))


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_have_the_gradient_of_one(make, pairs, gradient, make_student, workers):
    objective = make(pairs, ConstantAnnealing(value=0.5), flip=True)
    network = make_student()
    one, many = (gradient(objective, network, 2, n) for n in (1, workers))
    for alone, together in zip(one, many, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_micro_batches_add_up(make, pairs, make_student, share, assert_parts_add_up):
    objective = make(pairs, ConstantAnnealing(value=0.3), flip=True)
    objective.prepare(share())
    student = make_student()
    assert_parts_add_up(lambda part: objective.loss(student, 3, part), [*student.parameters()])
