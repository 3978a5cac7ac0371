import pytest
import torch

from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.objectives import anneal_reflow
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import ConstantAnnealing, LinearAnnealing
from slimctl.models.spec import ImageShape

NETWORK = {
    "kind": "song_unet",
    "channels": 4,
    "channel_multipliers": [1],
    "blocks": 1,
    "attention_resolutions": [],
    "middle_attention": False,
}
PLAIN = ImageShape(channels=1, size=4)


def spec(**changes):
    fields = {"pairs": "p", "network": NETWORK, "steps": 3, "batch_size": 4, "seed": 0}
    return AnnealReflow.model_validate(fields | changes)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_student_is_trained(run_job, store, make_input, classes):
    pairs = make_input(classes)
    flow = run_job(spec(), pairs=pairs)
    assert (flow.source, flow.image, flow.t_start) == ("network", pairs.image, 0.0)
    assert flow.label_counts == pairs.label_counts
    assert flow.flip_valid is True
    opened = open_flow(store, flow, torch.device("cpu"))
    assert flow.parameters == sum(weight.numel() for weight in opened.parameters())
    known = spec().expect({"pairs": Facts(pairs.image, 10, True)})
    assert (known.image, known.flip_valid) == (flow.image, True)
    assert (known.flow, known.network) == (Parameterisation(), spec().network)


def test_the_default_anneals_over_three_eighths_of_the_steps():
    assert spec(steps=800).schedule() == LinearAnnealing(length=300)
    assert spec(steps=1).schedule() == LinearAnnealing(length=1)
    plain = {"kind": "constant", "value": 0}
    assert spec(annealing=plain).schedule() == ConstantAnnealing(value=0)
    assert spec(annealing={"kind": "linear", "length": 7}).schedule().length == 7


@pytest.mark.parametrize(("annealing", "steps", "fresh"), [(None, 8, 3), ("none", 8, 0)])
def test_the_schedule_reaches_the_training(
    run_job, make_input, monkeypatch, annealing, steps, fresh
):
    betas = []
    real = anneal_reflow.annealed_noise
    monkeypatch.setattr(
        anneal_reflow, "annealed_noise", lambda *args: betas.append(args[2]) or real(*args)
    )
    plain = None if annealing is None else {"kind": "constant", "value": 0}
    run_job(spec(steps=steps, annealing=plain), pairs=make_input())
    assert len(betas) == fresh
    assert betas == pytest.approx([1 - step / 3 for step in range(fresh)])


def test_mirroring_that_the_teachers_data_forbids(refused, attempt, make_input):
    error = refused(spec(flip=True), pairs=Facts(PLAIN, 10, flip_valid=False))
    assert error.field == "flip"
    outcome = attempt(spec(flip=True), pairs=make_input(flip=False))
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', flip")


def test_a_network_that_cannot_take_the_images(refused, attempt, make_input):
    deep = spec(network=NETWORK | {"channel_multipliers": [1] * 4})
    assert refused(deep, pairs=Facts(PLAIN)).field == "network"
    assert attempt(deep, pairs=make_input()).where == "job 'it', network"
    unknown = deep.expect({"pairs": Facts()})
    assert unknown == Facts(flow=Parameterisation(), network=deep.network)
