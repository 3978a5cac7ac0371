import pytest
import torch

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training import sources
from slimctl.models.engine import choose_engine
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
    fields = {"data": "d", "network": NETWORK, "steps": 3, "batch_size": 4, "seed": 0}
    return TrainFlow.model_validate(fields | changes)


@pytest.mark.parametrize("conditional", [False, True])
def test_a_flow_is_trained(run_job, store, make_dataset, recorder, conditional):
    data = make_dataset(count=9, classes=3)
    asked = spec(conditional=conditional)
    flow = run_job(asked, data=data)
    assert isinstance(flow, Flow)
    assert (flow.source, flow.t_start, flow.prediction) == ("network", 0.0, "velocity")
    assert flow.image.classes == (3 if conditional else 0)
    assert flow.label_counts == ((3, 3, 3) if conditional else ())
    assert flow.flip_valid is True
    opened = open_flow(store, flow, torch.device("cpu"))
    assert flow.parameters == sum(weight.numel() for weight in opened.parameters())
    assert recorder.said("progress")[-1]["done"] == 3
    assert store.work(flow.id).names() == []
    engine = store.manifest(flow.id).engine
    chosen = choose_engine(torch.device("cpu"), "training")
    assert (engine["device"], engine["workers"]) == ("cpu", 1)
    assert engine["precision"] == chosen.precision
    assert asked.expect({"data": Facts(data.image, 9, True)}).image == flow.image


def test_training_again_gives_the_same_bytes(run_job, store, make_dataset, attempt):
    data = make_dataset(count=9)
    flow = run_job(spec(), data=data)
    first = store.file(flow, flow.file).read_bytes()
    again = attempt(spec(), artifact="train_flow-again", data=data)
    assert again.failure is None
    assert store.file(store.load_any("train_flow-again"), flow.file).read_bytes() == first
    other = run_job(spec(seed=1), data=data)
    assert store.file(other, other.file).read_bytes() != first


@pytest.mark.parametrize(
    ("asked", "valid", "mirrors"),
    [(None, True, True), (None, False, False), (True, True, True), (False, True, False)],
)
def test_mirroring_is_what_the_data_allows(
    run_job, make_dataset, monkeypatch, asked, valid, mirrors
):
    seen = []
    real = sources.mirror
    monkeypatch.setattr(sources, "mirror", lambda *args: seen.append(1) or real(*args))
    run_job(spec(flip=asked, steps=1), data=make_dataset(flip=valid))
    assert bool(seen) == mirrors


def test_all_that_is_refused_is_reported_and_the_images_stay_known(refused):
    deep = {"kind": "song_unet", "channels": 4, "channel_multipliers": [1, 1, 1, 1, 1]}
    asked = spec(flip=True, conditional=True, network=deep)
    error = refused(asked, data=Facts(PLAIN, 9, flip_valid=False))
    assert [one.field for one in error.each] == ["flip", "conditional", "network"]
    assert error.facts.image == PLAIN


def test_mirroring_digits_is_refused(refused, attempt, make_dataset):
    error = refused(spec(flip=True), data=Facts(PLAIN, 9, flip_valid=False))
    assert error.field == "flip"
    outcome = attempt(spec(flip=True), data=make_dataset(flip=False))
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', flip")
    assert "flip_valid: true" in outcome.fix


def test_a_conditional_flow_needs_labels(refused, attempt, make_dataset):
    assert refused(spec(conditional=True), data=Facts(PLAIN)).field == "conditional"
    assert attempt(spec(conditional=True), data=make_dataset()).failure == "UserError"


def test_a_network_that_cannot_take_the_images(refused, attempt, make_dataset):
    deep = spec(network=NETWORK | {"channel_multipliers": [1] * 4})
    assert refused(deep, data=Facts(PLAIN)).field == "network"
    outcome = attempt(deep, data=make_dataset())
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', network")
    assert "\n" not in outcome.what
    assert "at most 3 channel_multipliers" in outcome.fix


def test_a_diverged_training_fails_and_keeps_its_work(attempt, make_dataset, store, monkeypatch):
    loss = FlowMatching.loss
    monkeypatch.setattr(FlowMatching, "loss", lambda *args: loss(*args) * torch.nan)
    outcome = attempt(spec(), data=make_dataset())
    assert outcome.failure == "TrainingDiverged"
    assert "the loss became nan at step 0" in outcome.what
    assert not outcome.retry
    assert store.state(outcome.artifact_id) == "absent"
