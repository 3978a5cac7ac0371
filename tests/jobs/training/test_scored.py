"""Scores on the way: they see the student, and leave what comes out alone."""

import pytest
from safetensors.torch import load_file

from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.models.spec import ImageShape

NETWORK = {"kind": "song_unet", "channels": 4, "channel_multipliers": [1], "blocks": 1,
           "attention_resolutions": [], "middle_attention": False}  # fmt: skip
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}
SCORED = {"data": "d", "features": "f", "score_every": 2, "score_samples": 20}
PLAIN = ImageShape(channels=1, size=4)


def anneal(**changes):
    fields = {"pairs": "p", "network": NETWORK, "steps": 5, "batch_size": 4, "seed": 0}
    return AnnealReflow.model_validate(fields | changes)


def distill(**changes):
    fields = {"pairs": "p", "network": NETWORK, "two_step_weight": 0, "steps": 5}
    return Distill.model_validate(fields | {"batch_size": 4, "seed": 0} | changes)


@pytest.fixture
def inputs(run_job, make_dataset, make_analytic, make_pairs):
    data = make_dataset(count=30, classes=3)
    training = TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0)
    pairs = make_pairs(make_analytic(data, conditional=True), count=10)
    return {"pairs": pairs, "data": data, "features": run_job(training, data=data)}


@pytest.mark.parametrize("spec", [anneal, distill])
def test_scores_change_nothing_of_the_result(run_job, store, inputs, spec, recorder):
    plain = run_job(spec(log_every=5), pairs=inputs["pairs"])
    weights = load_file(store.file(plain, plain.file))
    store.blobs.delete(f"artifacts/{plain.id}")
    scored = run_job(spec(**SCORED, log_every=5), **inputs)
    assert scored.id == plain.id
    again = load_file(store.file(scored, scored.file))
    assert all(again[name].equal(weight) for name, weight in weights.items())
    scores = store.manifest(scored.id).engine["scores"]
    assert list(scores) == ["0", "2", "4", "5"]
    reported = recorder.said("progress")
    assert "score" not in reported[-2]["metrics"]
    assert reported[-1]["metrics"]["score"] == scores["5"]


def test_without_features_pixels_are_scored(run_job, store, inputs):
    made = run_job(anneal(data="d", score_samples=20), pairs=inputs["pairs"], data=inputs["data"])
    scores = store.manifest(made.id).engine["scores"]
    assert list(scores) == ["0", "5"]
    assert all(value > 0 for value in scores.values())


def test_the_key_knows_nothing_of_scores():
    assert job_key(anneal(), {"p": "1"}) == job_key(anneal(**SCORED), {"p": "1"})


def test_features_need_images_to_compare_with():
    with pytest.raises(ValueError, match="name them as data"):
        anneal(features="f")


@pytest.mark.parametrize(
    ("field", "image"),
    [
        ("data", ImageShape(channels=3, size=4)),
        ("data", ImageShape(channels=1, size=4, classes=2)),
        ("features", ImageShape(channels=1, size=8)),
    ],
)
@pytest.mark.parametrize("spec", [anneal, distill])
def test_scores_on_other_images_are_refused(spec, field, image):
    labelled = PLAIN.model_copy(update={"classes": 3})
    known = {"pairs": Facts(labelled), "data": Facts(labelled), "features": Facts(PLAIN)}
    spec(**SCORED).expect(known)
    with pytest.raises(FieldError, match="differ from those of 'p'") as caught:
        spec(**SCORED).expect(known | {field: Facts(image)})
    assert caught.value.field == field
