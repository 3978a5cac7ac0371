import pickle

import pytest
import torch

from slimctl.jobs.base.context import Handles
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives import train_flow
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.models.flows.spec import UniformTime
from slimctl.models.pixels import to_float


@pytest.fixture
def make(store):
    def objective(data, conditional=False, flip=False, time=None):
        spec = TrainFlow(
            data="data", network={"kind": "mlp", "width": 8}, steps=1, seed=5,
            conditional=conditional, time=time or UniformTime(), flip=flip,
        )  # fmt: skip
        return FlowMatching(spec, Handles(store, "", {"data": data}))

    return objective


@pytest.fixture
def taken(monkeypatch):
    """What the loss is taken of: (x0, x1, t, label) of each call."""
    calls = []
    real = train_flow.flow_matching_loss

    def loss(network, x0, x1, t, label):
        calls.append((x0, x1, t, label))
        return real(network, x0, x1, t, label)

    monkeypatch.setattr(train_flow, "flow_matching_loss", loss)
    return calls


def test_the_exact_velocity_has_no_loss(store, make, make_dataset, share):
    data = make_dataset(count=1)
    x1 = to_float(load_dataset_tensors(store, data)[0])
    objective = make(data, time=UniformTime(high=0.9))
    objective.prepare(share())
    for step in range(3):
        exact = objective.loss(lambda xt, t, _: (x1 - xt) / (1 - t).view(-1, 1, 1, 1), step)
        assert exact.ndim == 0
        assert float(exact) < 1e-11
        assert float(objective.loss(lambda xt, t, _: xt, step)) > 0.1


def test_the_loss_is_of_fresh_noise_and_the_images_of_the_step(
    store, make, make_dataset, share, taken, make_student
):
    data = make_dataset(count=20)
    images = to_float(load_dataset_tensors(store, data)[0])
    objective = make(data, time=UniformTime(low=0.25, high=0.5))
    objective.prepare(share())
    draws = Draws(5, share(), data.image)
    network = make_student()
    for step in (0, 1, 9):
        loss = objective.loss(network, step)
        x0, x1, t, label = taken.pop()
        assert torch.equal(x0, draws.noise(step))
        assert torch.equal(x1, images[draws.samples(step, 20)])
        assert torch.equal(t, draws.times(step, UniformTime(low=0.25, high=0.5)))
        assert label is None
        xt = x0 + t.view(-1, 1, 1, 1) * (x1 - x0)
        expected = (network(xt, t, None) - (x1 - x0)).square().mean()
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("classes", [0, 3])
def test_labels_reach_a_conditional_network_only(make, make_dataset, share, make_student, classes):
    data = make_dataset(count=20, classes=3)
    objective = make(data, conditional=classes > 0)
    objective.prepare(share())
    network = make_student(classes)
    objective.loss(network, 4)
    (_, _, label), index = network.calls[0], Draws(5, share(), data.image).samples(4, 20)
    assert (label is None) if classes == 0 else label.tolist() == (index % 3).tolist()


def test_every_other_image_is_mirrored(make, make_dataset, share, taken, make_student):
    data = make_dataset(count=20)
    for flip in (False, True):
        objective = make(data, flip=flip)
        objective.prepare(share())
        objective.loss(make_student(), 3)
    flips = Draws(5, share(), data.image).flips(3)
    assert flips.any()
    assert not flips.all()
    assert torch.equal(taken[1][1], mirror(taken[0][1], flips))
    assert torch.equal(taken[1][0], taken[0][0])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_have_the_gradient_of_one(
    make, make_dataset, gradient, make_student, workers
):
    objective = make(make_dataset(count=20, classes=3), conditional=True, flip=True)
    network = make_student(3)
    one, many = (gradient(objective, network, 2, n) for n in (1, workers))
    for alone, together in zip(one, many, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_objectives_travel_before_they_are_prepared(make, make_dataset, share, make_student):
    objective = make(make_dataset())
    other = pickle.loads(pickle.dumps(objective))
    losses = []
    for each in (objective, other):
        each.prepare(share())
        losses.append(each.loss(make_student(), 0))
    assert torch.equal(*losses)


def test_micro_batches_add_up(make, make_dataset, make_student, share, assert_parts_add_up):
    objective = make(make_dataset(count=20, classes=3), conditional=True, flip=True)
    objective.prepare(share())
    student = make_student(3)
    assert_parts_add_up(lambda part: objective.loss(student, 3, part), [*student.parameters()])
