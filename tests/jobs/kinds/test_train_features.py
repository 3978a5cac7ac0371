from dataclasses import replace

import pytest
import torch

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.models.spec import ImageShape

SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 5}


def spec(**changes):
    fields = {"data": "d", "network": SMALL, "steps": 3, "batch_size": 4, "seed": 0}
    return TrainFeatures.model_validate(fields | changes)


def test_features_of_a_labelled_data_set(run_job, store, make_dataset, recorder):
    data = make_dataset(count=12, classes=3)
    net = run_job(spec(), data=data)
    assert isinstance(net, FeatureNet)
    assert (net.image, net.dimensions) == (data.image, 5)
    assert net.accuracy in (0.0, 1.0)  # of one image
    extract = open_features(store, net, torch.device("cpu"))
    assert extract(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape == (2, 5)
    assert recorder.said("progress")[-1]["done"] == 3
    assert spec().expect({"data": Facts(data.image)}).image == data.image


@pytest.mark.parametrize("classes", [0, 1])
def test_one_class_tells_nothing(refused, attempt, make_dataset, classes):
    data = make_dataset(count=6, classes=classes)
    error = refused(spec(), data=Facts(data.image))
    assert error.field == "data"
    assert ("has no labels", "has 1 class,")[classes] in error.what
    outcome = attempt(spec(), data=data)
    assert outcome.failure == "UserError"
    assert "telling classes apart" in outcome.what


def test_classes_without_images_tell_nothing(attempt, commit, make_dataset):
    data = make_dataset(count=6, classes=2).model_copy(update={"label_counts": (6, 0)})
    assert attempt(spec(), data=commit(data, "load_dataset-one")).failure == "UserError"


def test_classes_known_to_be_empty_are_reported_before_anything_starts(refused):
    image = ImageShape(channels=1, size=4, classes=2)
    error = refused(spec(), data=Facts(image, classes_seen=1))
    assert "has 2 classes, of which 1 with images" in error.what
    assert spec().expect({"data": Facts(image, classes_seen=2)}).image == image


def test_a_network_that_cannot_take_the_images(refused, attempt, make_dataset):
    deep = spec(network=SMALL | {"channel_multipliers": [1] * 4})
    error = refused(deep, data=Facts(ImageShape(channels=1, size=4, classes=2)))
    assert error.field == "network"
    assert "cannot be halved 3 times" in error.what
    assert "at most 3" in error.fix
    assert deep.expect({"data": Facts()}) == Facts(dimensions=deep.network.features)
    assert deep.expect({"data": Facts(ImageShape(channels=1, size=8, classes=2))})


@pytest.mark.parametrize(("accuracy", "warned"), [(0.2, True), (0.49, True), (0.51, False)])
def test_features_that_tell_little_are_warned_about(
    run_job, make_dataset, recorder, monkeypatch, accuracy, warned
):
    from slimctl.jobs.training import classifier

    real = classifier.train_classifier
    monkeypatch.setattr(
        classifier,
        "train_classifier",
        lambda *arguments: replace(real(*arguments), accuracy=accuracy),
    )
    run_job(spec(), data=make_dataset(count=12, classes=3))
    assert any("mean little" in one["message"] for one in recorder.said("warning")) == warned
