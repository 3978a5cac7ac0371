"""`mean_flow` and `consistency` as jobs: sources, workers, resuming, and what comes out."""

import pytest
import torch
from gloo import on_gloo
from pydantic import ValidationError
from torch import nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.consistency import Consistency
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.mean_flow import MeanFlow
from slimctl.jobs.objectives.consistency import ConsistencyTuning
from slimctl.jobs.objectives.mean_flow import MeanVelocities
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Part, Share
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.diffusers_unet.spec import DiffusersUNetSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.sharding import mesh_of
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec

CPU = torch.device("cpu")
MLP = {"kind": "mlp", "width": 8}
TWO = {"kind": "two_times", "network": MLP}
KINDS = {"mean_flow": (MeanFlow, MeanVelocities), "consistency": (Consistency, ConsistencyTuning)}
SOURCES = ("data", "pairs", "teacher")


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=20, classes=4)


@pytest.fixture
def handles(store, data, make_pairs, make_analytic):
    teacher = make_analytic(data, conditional=True)
    inputs = {"data": data, "teacher": teacher, "pairs": make_pairs(teacher, count=20)}
    return Handles(store, "", inputs)


@pytest.fixture
def make(handles):
    def objective(kind, source="data", **changes):
        lines = {
            "data": {"data": "data", "conditional": True}, "pairs": {"pairs": "pairs"},
            "teacher": {"data": "data", "teacher": "teacher"},
        }  # fmt: skip
        fields = {"network": MLP, "steps": 4, "batch_size": 8, "seed": 5, "precision": "float32",
                  "learning_rate": 1e-3, "checkpoint_s": 1e-9}  # fmt: skip
        spec, cls = KINDS[kind]
        return cls(spec.model_validate(fields | lines[source] | changes), handles)

    return objective


@pytest.fixture
def trained(make, store, data):
    def run(name, kind, rank=0, world=1, stop_at=None, splits=False, **changes):
        objective = make(kind, **changes)
        size = objective.spec.batch_size
        torch.manual_seed(0)
        network = parse_network(TWO if kind == "mean_flow" else MLP).build(data.image)
        mesh, steps = mesh_of(world, CPU) if splits else None, objective.loss
        share = Share(rank * size // world, size // world, size, CPU, mesh)

        def loss(model, step, part):
            if step == stop_at:
                raise SystemExit
            return steps(model, step, part)

        objective.loss = loss
        folder = store.work(f"{kind}-{name}")
        Trainer(
            objective.spec, network, objective, share, folder, lambda step, metrics: None, rank,
            world,
        ).run()  # fmt: skip
        return load_checkpoint(folder).tensors

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes_bit_for_bit_from_every_step(trained, kind):
    whole = trained("whole", kind)
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            trained(f"parts{step}", kind, stop_at=step)
        parts = trained(f"parts{step}", kind)
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("kind", "splits"), [*((kind, False) for kind in KINDS), ("mean_flow", True)]
)
def test_two_workers_train_what_one_does(trained, tmp_path, kind, splits):
    alone, how = trained("alone", kind), {"world": 2, "splits": splits}
    said = on_gloo(tmp_path, lambda rank: trained("both", kind, rank=rank, **how))
    assert said == ["", ""]
    together = trained("both", kind)  # nothing is left to do: the checkpoint
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_every_source_add_up(make, share, data, kind, source):
    objective = make(kind, source)
    objective.prepare(share())
    network = parse_network(TWO if kind == "mean_flow" else MLP).build(data.image)
    whole = objective.loss(network, 1)
    parts = [objective.loss(network, 1, Part(number, 3)) for number in range(3)]
    torch.testing.assert_close(sum(parts), whole)
    assert float(whole.detach()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_passes_without_a_gradient_have_the_same_dropout_masks(make, share, kind):
    objective, masks = make(kind, **({"tangent": "given"} if kind == "mean_flow" else {})), []
    objective.prepare(share())

    class Masked(nn.Module):
        def forward(self, xt, *times):
            masks.append(nn.functional.dropout(torch.ones(xt.shape)))
            return masks[-1] * xt

    objective.loss(Masked(), 0)
    assert len(masks) == 2
    assert torch.equal(*masks)


def test_a_share_of_samples_has_a_step(make, share):
    objective = make("mean_flow", steps_share=0.5)
    objective.prepare(share())
    times = [objective._times(objective._source.draws, step) for step in range(200)]
    t, end = (torch.cat(each) for each in zip(*times, strict=True))
    assert (end >= t).all()
    assert float((end > t).float().mean()) == pytest.approx(0.5, abs=0.05)


# What comes out


def given(handles, *names):
    return {name: handles.inputs[name] for name in names}


def test_a_mean_flow_is_sampled_in_any_number_of_steps(run_job, handles, store, make_model, data):
    """It starts as the flow that it starts from, and takes Euler's steps by the mean velocity."""
    start = make_model(label_counts=data.label_counts, seed=3)
    spec = MeanFlow(teacher="teacher", data="data", start="start", steps=1, batch_size=4, seed=1,
                    learning_rate=1e-9, shared=True)  # fmt: skip
    made = run_job(spec, **{**given(handles, "data", "teacher"), "start": start})
    assert (made.prediction, made.network["kind"]) == ("velocity", "two_times")
    assert made.network["network"] == start.network
    flow, first = open_flow(store, made, CPU), open_flow(store, start, CPU)
    x0, label = torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 2])
    t = torch.rand(3)
    torch.testing.assert_close(flow.velocity(x0, t, label), first.velocity(x0, t, label))
    for steps in (1, 2, 4):
        assert solve(EulerSpec(steps=steps), flow, x0, label).nfe.tolist() == [steps] * 3


def test_a_consistent_generator_starts_at_edms_noise(run_job, handles):
    spec = Consistency(data="data", network=MLP, steps=1, batch_size=4, seed=1, shared=True)
    made = run_job(spec, data=handles.inputs["data"])
    assert (made.t_start, made.label_counts) == (1 / 81, ())


# What is refused


@pytest.mark.parametrize("cls", [MeanFlow, Consistency])
def test_lines_have_one_source(cls):
    fields = {"network": MLP, "steps": 1}
    for wrong, said in (
        ({}, "give either data"),
        ({"data": "d", "pairs": "p"}, "give either data"),
        ({"data": "d", "start": "s"}, "give either start"),
        ({"pairs": "p", "conditional": True}, "conditional is for data alone"),
    ):
        with pytest.raises(ValidationError, match=said):
            cls(**fields | wrong)


def test_a_network_that_takes_no_second_time_is_refused(data):
    unet = DiffusersUNetSpec(config={})
    spec = MeanFlow(data="d", network=unet, steps=1)
    with pytest.raises(FieldError) as refused:
        spec.expect({"data": data.facts()})
    assert refused.value.each[0].field == "network"
    assert "takes no second time" in refused.value.each[0].what
    assert "match_distribution" in refused.value.each[0].fix
    start = Facts(data.image, network=unet, flow=Parameterisation())
    spec = MeanFlow(data="d", conditional=True, start="s", steps=1)
    with pytest.raises(FieldError) as refused:
        spec.expect({"data": data.facts(), "start": start})
    assert refused.value.each[0].field == "start"


@pytest.mark.parametrize("cls", [MeanFlow, Consistency])
def test_starts_of_another_kind_are_refused(cls, data):
    spec = cls(data="d", conditional=True, start="s", steps=1)
    for start, said in (
        (Facts(data.image, closed_form=True), "closed form"),
        (Facts(data.image, flow=Parameterisation(prediction="noise", schedule={"kind": "ve"})),
         "predicts noise"),
        (Facts(data.image.model_copy(update={"classes": 0})), "images or classes"),
    ):  # fmt: skip
        with pytest.raises(FieldError) as refused:
            spec.expect({"data": data.facts(), "start": start})
        assert said in refused.value.each[0].what


def test_an_evaluation_takes_it_with_a_solver(data):
    made = MeanFlow(data="d", conditional=True, network=MLP, steps=1).expect({"data": data.facts()})
    assert made.network == parse_network(TWO)
    assert made.flow is not None
    assert Evaluate(model="m", data="d", features="f", solver={"kind": "euler", "steps": 1})
