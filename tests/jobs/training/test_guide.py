import pytest
import torch

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.training.guide import measure_guide
from slimctl.jobs.training.pair_source import PairSource
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.losses import one_step_error, two_step_error

CPU = torch.device("cpu")
TIMES = (0.2, 0.8)


@pytest.fixture(autouse=True)
def _several_batches(monkeypatch):
    monkeypatch.setattr("slimctl.jobs.training.guide.BATCH", 3)


@pytest.fixture
def context(make_context):
    return make_context("distill-1")


def test_both_errors_are_noted_without_a_verdict(
    store, context, recorder, make_dataset, make_analytic, make_pairs, make_model
):
    good = make_analytic(make_dataset(count=1))
    pairs = make_pairs(good, count=10)
    student = make_model(Generator)
    network = open_network(store, student, CPU)
    x0, x1, _ = PairSource(store, pairs, CPU).batch(torch.arange(10))
    own = float(one_step_error(NetworkFlow(network, student.image), x0, x1).mean())
    measure_guide(context, pairs, good, student, network.state_dict(), TIMES)
    assert context.engine["student_one_step_error"] == pytest.approx(own, rel=1e-5)
    assert context.engine["guide_two_step_error"] < 1e-6
    assert context.notes == []
    assert len(recorder.said("log")) == 1

    bad = make_model(seed=9)
    s = torch.full((10,), 0.5)
    error = float(two_step_error(open_flow(store, bad, CPU), x0, x1, s).mean())
    assert error > 0
    perfect = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    measure_guide(context, pairs, bad, student, perfect, TIMES)
    assert context.engine["guide_two_step_error"] == pytest.approx(error, rel=1e-5)
    zero = float((x0 - x1).square().mean())
    assert context.engine["student_one_step_error"] == pytest.approx(zero, rel=1e-5)
    assert context.notes == []
