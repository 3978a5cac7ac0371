import pytest
import torch

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.evaluation.sampling import describe_solver, open_sampler
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.pixels import to_float
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec, HeunSpec, RK45Spec

CPU = torch.device("cpu")


def drawn(sampler, seed, count, batch_size):
    batches = list(sampler.draw(seed, count, batch_size))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat(labels) if labels else None,
        torch.cat([batch.nfe for batch in batches]),
    )


@pytest.fixture
def make_sampler(store, make_model, make_dataset, make_analytic):
    """A sampler of two classes, for each way to sample."""

    def make(solver):
        if isinstance(solver, RK45Spec):  # a network of random weights is too rough for it
            model = make_analytic(make_dataset(count=8, classes=2), conditional=True)
        else:
            model = make_model(Flow if solver else Generator, label_counts=(1, 3))
        return open_sampler(store, model, solver, CPU)

    return make


@pytest.mark.parametrize("solver", [EulerSpec(steps=3), RK45Spec(tolerance=1e-3), None])
def test_samples_do_not_depend_on_the_batch_size(make_sampler, solver):
    sampler = make_sampler(solver)
    images, labels, nfe = drawn(sampler, 5, 11, 11)
    for batch_size in (1, 4):
        others = drawn(sampler, 5, 11, batch_size)
        torch.testing.assert_close(others[0], images, rtol=1e-4, atol=1e-5)
        assert torch.equal(others[1], labels)
        assert torch.equal(others[2], nfe)
    torch.testing.assert_close(drawn(sampler, 5, 6, 11)[0], images[:6], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(drawn(sampler, 6, 11, 11)[0], images)


def test_a_generator_takes_one_step(store, make_model):
    model = make_model(Generator)
    sampler = open_sampler(store, model, None, CPU)
    images, labels, nfe = drawn(sampler, 0, 4, 4)
    x0 = counter_random.normal(0, Stream.SAMPLE_NOISE, torch.arange(4), (1, 4, 4))
    network = open_network(store, model, CPU)
    with torch.no_grad():
        expected = x0 + network(x0, torch.zeros(4), None)
    torch.testing.assert_close(images, expected)
    assert labels is None
    assert nfe.tolist() == [1, 1, 1, 1]
    assert not images.requires_grad


def test_a_flow_is_solved_from_its_own_start(store, make_model):
    model = make_model().model_copy(update={"t_start": 0.25})
    sampler = open_sampler(store, model, HeunSpec(steps=3), CPU)
    images, _, nfe = drawn(sampler, 2, 4, 4)
    flow = open_flow(store, model, CPU)
    solution = solve(HeunSpec(steps=3), flow, sampler.noise(2, torch.arange(4)), t_start=0.25)
    assert torch.equal(images, solution.x1)
    assert nfe.tolist() == [6] * 4


def test_labels_follow_the_marginal(store, make_model):
    sampler = open_sampler(store, make_model(label_counts=(1, 0, 3)), EulerSpec(steps=1), CPU)
    shares = torch.bincount(sampler.labels(0, torch.arange(8000)), minlength=3) / 8000
    assert shares.tolist() == pytest.approx([0.25, 0, 0.75], abs=0.02)


def test_samples_of_a_closed_form_are_its_images(store, make_dataset, make_analytic):
    data = make_dataset(count=5)
    sampler = open_sampler(store, make_analytic(data), RK45Spec(tolerance=1e-4), CPU)
    images, _, _ = drawn(sampler, 0, 20, 7)
    real = to_float(load_dataset_tensors(store, data)[0])
    distance = torch.cdist(images.flatten(1), real.flatten(1)).min(1).values / 4
    assert float(distance.max()) < 5e-3


def test_noise_is_the_same_for_every_model_of_a_shape(store, make_model):
    first = open_sampler(store, make_model(), EulerSpec(steps=1), CPU)
    second = open_sampler(store, make_model(Generator, seed=1), None, CPU)
    index = torch.arange(3)
    assert torch.equal(first.noise(4, index), second.noise(4, index))


def test_model_and_solver_have_to_go_together(store, make_model):
    with pytest.raises(UserError, match="takes no solver"):
        open_sampler(store, make_model(Generator), EulerSpec(steps=1), CPU)
    with pytest.raises(UserError, match="needs a solver"):
        open_sampler(store, make_model(), None, CPU)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (None, "one step"),
        (EulerSpec(steps=50), "euler 50"),
        (HeunSpec(steps=7), "heun 7"),
        (RK45Spec(tolerance=1e-5), "rk45 1e-05"),
        (RK45Spec(tolerance=0.001), "rk45 0.001"),
    ],
)
def test_solvers_in_words(solver, words):
    assert describe_solver(solver) == words
