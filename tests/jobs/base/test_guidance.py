"""Guidance as a field: its key, its checks, and what it does to pairs."""

import pytest
import torch

from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import content_of, job_key
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.pairs.shards import pair_labels, pair_noise, read_pairs
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
LABELLED = ImageShape(channels=1, size=4, classes=3)
MLP = {"kind": "mlp", "width": 8}


def spec(**changes):
    fields = {"flow": "f", "count": 6, "shard_size": 6, "solver": {"kind": "euler", "steps": 3}}
    return GeneratePairs.model_validate({**fields, "seed": 5, **changes})


def key(asked):
    return job_key(asked, {"f": "flow-1", "weak": "flow-2"})


def test_it_enters_the_key_only_if_it_is_given():
    assert not {"guidance", "weaker"} & set(spec().keyed(content_of(spec(), {"f": "x"}), {}))
    keys = {
        key(spec()),
        key(spec(guidance=2.0)),
        key(spec(guidance=3.0)),
        key(spec(guidance={"scale": 2.0, "interval": [0.1, 0.9]})),
        key(spec(guidance=2.0, weaker="weak")),
    }
    assert len(keys) == 5
    assert key(spec(guidance=2)) == key(spec(guidance={"scale": 2.0}))


def test_pairs_are_those_of_the_guided_flow(run_job, store, make_dataset, make_analytic):
    handle = make_analytic(make_dataset(count=9, classes=3), conditional=True)
    pairs, plain = run_job(spec(guidance=2.0), flow=handle), run_job(spec(), flow=handle)
    index = torch.arange(6)
    x0, label = pair_noise(5, index, handle.image), pair_labels(5, index, handle)
    flow = open_flow(store, handle, CPU).guided(2.0)
    made = solve(EulerSpec(steps=3), flow, x0, label).x1.half()
    assert torch.equal(read_pairs(store, pairs), made)
    assert not torch.equal(read_pairs(store, plain), made)
    assert (pairs.nfe, plain.nfe) == (6.0, 3.0)


@pytest.mark.parametrize(
    ("known", "changes", "field", "what"),
    [
        (Facts(LABELLED, flow=Parameterisation()), {}, "guidance", "'f' has no null class"),
        (Facts(LABELLED, flow=Parameterisation(null_class=3)), {}, None, ""),
        (Facts(LABELLED, flow=Parameterisation(), closed_form=True), {}, None, ""),
        (Facts(LABELLED, flow=Parameterisation()), {"weaker": "weak"}, None, ""),
        (Facts(ImageShape(channels=1, size=8)), {"weaker": "weak"}, "weaker", "'weak' is of 4 x 4"),
        (Facts(LABELLED), {"weaker": "weak", "guidance": None}, "weaker", "is not given"),
        (Facts(LABELLED, made="Generator"), {}, "guidance", "only a flow can be guided"),
    ],
)
def test_what_cannot_be_guided_is_known_before_it_runs(known, changes, field, what):
    asked = spec(**({"guidance": 2.0} | changes))
    inputs = {"flow": known, "weaker": Facts(LABELLED)}
    if field is None:
        asked.check_guidance(inputs, "flow", "f")
        return
    with pytest.raises(FieldError, match=what) as caught:
        asked.check_guidance(inputs, "flow", "f")
    assert caught.value.field == field
    assert caught.value.fix


def test_a_flow_that_was_trained_with_dropped_labels_can_be_guided(run_job, store, make_dataset):
    fields = {"data": "d", "network": MLP, "steps": 3, "batch_size": 4, "seed": 0}
    asked = TrainFlow.model_validate(fields | {"conditional": True, "label_dropout": 0.5})
    data = make_dataset(count=9, classes=3)
    known = asked.expect({"data": data.facts()})
    handle = run_job(asked, data=data)
    assert known.flow.null_class == handle.null_class == 3
    flow = open_flow(store, handle, CPU)
    rows = flow.network.label_in.weight
    assert rows.shape == (4, 8)
    torch.manual_seed(0)
    x, t, label = torch.randn(2, 1, 4, 4), torch.tensor([0.2, 0.8]), torch.tensor([0, 2])
    null, own = flow.velocity(x, t, torch.tensor([3, 3])), flow.velocity(x, t, label)
    assert torch.equal(flow.guided(2.0).velocity(x, t, label), null + 2.0 * (own - null))
    plain = TrainFlow.model_validate(fields | {"conditional": True})
    assert run_job(plain, data=data).null_class is None


def test_labels_are_dropped_as_often_as_asked(run_job, store, make_dataset, monkeypatch):
    from slimctl.jobs.objectives import train_flow

    seen = []

    def loss(network, x0, x1, t, label):
        seen.append(label)
        return network(x0, t, label).square().mean((1, 2, 3))

    monkeypatch.setattr(train_flow, "flow_matching_loss", loss)
    fields = {"data": "d", "network": MLP, "steps": 40, "batch_size": 50, "seed": 0}
    asked = TrainFlow.model_validate(fields | {"conditional": True, "label_dropout": 0.2})
    run_job(asked, data=make_dataset(count=9, classes=3))
    share = float((torch.cat(seen) == 3).double().mean())
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"conditional": False}, "no labels to drop"),
        ({"network": {"kind": "diffusers_unet", "config": {}}}, "has no null class"),
    ],
)
def test_labels_are_dropped_only_where_there_are_some(changes, what):
    fields = {"data": "d", "network": MLP, "steps": 3, "conditional": True, "label_dropout": 0.1}
    asked = TrainFlow.model_validate(fields | changes)
    with pytest.raises(FieldError) as caught:
        asked.expect({"data": Facts(LABELLED, flip_valid=True)})
    assert any(what in each.what for each in caught.value.each)
