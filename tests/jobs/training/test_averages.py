"""Snapshots of two averages in a training, and the weights that evaluations make of them."""

import pytest
import torch
from safetensors.torch import load_file

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldErrors
from slimctl.jobs.base.keys import content_of
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.flows import open_network
from slimctl.jobs.storage.tensors import average_file
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Objective, Share
from slimctl.models.networks.registry import parse_network

pytestmark = pytest.mark.usefixtures("written_at_once")
CPU = torch.device("cpu")
MLP = {"kind": "mlp", "width": 8}
STEPS = 40


def settings(**changes):
    fields = {
        "data": "d", "network": MLP, "steps": STEPS, "batch_size": 8, "seed": 0, "shared": True,
        "learning_rate": 1e-2, "ema_profiles": (0.05, 0.1), "checkpoint_s": 1e-9,
    }  # fmt: skip
    return TrainFlow.model_validate(fields | changes)


@pytest.fixture
def flow(run_job, make_dataset):
    return run_job(settings(), data=make_dataset(count=20))


def test_the_result_has_sixteen_snapshots_at_most(flow, store):
    assert flow.averages.lengths == (0.05, 0.1)
    assert flow.averages.steps == (3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 40)
    names = store.manifest(flow.id).files
    assert {average_file(step) for step in flow.averages.steps} <= set(names)


def test_a_length_that_was_kept_is_its_last_snapshot(flow, store):
    last = load_file(store.file(flow, average_file(STEPS)))
    for number, length in enumerate(flow.averages.lengths):
        wanted = flow.averages.model_copy(update={"wanted": length})
        network = open_network(store, flow.model_copy(update={"averages": wanted}), CPU)
        for name, value in network.state_dict().items():
            kept = last[f"{number}.{name}"]
            torch.testing.assert_close(value, kept, rtol=1e-4, atol=1e-5)


def test_other_lengths_are_other_weights_and_without_one_nothing_changes(flow, store, run_job):
    wanted = flow.averages.model_copy(update={"wanted": 0.15})
    other = open_network(store, flow.model_copy(update={"averages": wanted}), CPU).state_dict()
    plain = open_network(store, flow, CPU).state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in plain.items())
    assert all(value.isfinite().all() for value in other.values())
    fresh = parse_network(MLP).build(flow.image).state_dict()
    distance = sum(float((other[n] - v).square().sum()) for n, v in plain.items())
    away = sum(float((fresh[n] - v).square().sum()) for n, v in plain.items())
    assert distance < 0.1 * away


class Still(Objective):
    """Moves a weight by one a step."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at

    def prepare(self, share):
        pass

    def loss(self, network, step, part=None):
        if step == self.stop_at:
            raise SystemExit
        return network.weight.sin().sum() * (step % 3)


def test_a_crash_changes_no_snapshot(store):
    def run(name, stop_at=None):
        torch.manual_seed(0)
        share, folder = Share(0, 8, 8, CPU), store.work(f"train_flow-{name}")
        spec, network = settings(steps=20), torch.nn.Linear(2, 2)
        Trainer(spec, network, Still(stop_at), share, folder, lambda *_: None).run()
        return {step: folder.read(average_file(step)) for step in range(2, 21, 2)}

    whole = run("whole")
    for stop_at in (1, 7, 19):
        with pytest.raises(SystemExit):
            run(f"parts{stop_at}", stop_at)
        assert run(f"parts{stop_at}") == whole


def test_what_keeps_no_averages_is_refused_and_keys_stay(make_model):
    fields = {"model": "m", "data": "d", "features": "f", "samples": 5000, "ema": 0.07}
    spec = Evaluate.model_validate(fields)
    known = {"model": Facts(averaged=False), "data": Facts(), "features": Facts()}
    with pytest.raises(FieldErrors, match="keeps no averages of other lengths"):
        spec.expect(known)
    spec.expect({**known, "model": Facts(averaged=True)})
    with pytest.raises(UserError, match="set ema_profiles"):
        spec._averaged(make_model())
    plain = Evaluate.model_validate({name: v for name, v in fields.items() if name != "ema"})
    assert "ema" not in content_of(plain, {"m": "1", "d": "2", "f": "3"})
    assert "ema_profiles" not in content_of(settings(ema_profiles=None), {"d": "1"})
