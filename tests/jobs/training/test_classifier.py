import pytest
import torch

from slimctl.jobs.base.errors import TrainingDiverged
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.jobs.training.classifier import train_classifier

CPU = torch.device("cpu")
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 5}


def settings(**changes):
    fields = {
        "data": "d",
        "network": SMALL,
        "steps": 60,
        "learning_rate": 0.02,
        "batch_size": 16,
        "seed": 1,
    }
    return TrainFeatures.model_validate(fields | changes)


@pytest.fixture
def stripes(make_dataset):
    """Images of two classes: stripes that lie, or stand."""
    data = make_dataset(count=40, classes=2)
    labels = torch.arange(40) % 2
    images = torch.randint(0, 60, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, ::2] += 180
    images[labels == 1, :, :, ::2] += 180
    return data, images.to(torch.uint8), labels


def train(settings, problem, progress=lambda *_, **__: None):
    data, images, labels = problem
    return train_classifier(settings, images, labels, data, CPU, progress)


def test_what_can_be_separated_is_separated(stripes):
    points = []
    trained = train(settings(), stripes, lambda *point, **more: points.append((point, more)))
    assert trained.accuracy == 1.0
    assert trained.dimensions == 5
    assert [point for point, _ in points] == [(50, 60), (60, 60)]
    assert points[-1][1]["loss"] < 0.2


def test_training_is_a_function_of_the_seed(stripes):
    torch.manual_seed(5)
    first = train(settings(), stripes)
    torch.manual_seed(6)
    second = train(settings(), stripes)
    other = train(settings(seed=2), stripes)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())
    assert not torch.equal(first.weights["embed.weight"], other.weights["embed.weight"])


def test_the_accuracy_is_of_images_that_were_kept_back(stripes):
    """Random labels can be learned by heart but not guessed."""
    data, images, _ = stripes
    labels = torch.randint(0, 2, (40,), generator=torch.Generator().manual_seed(3))
    trained = train(settings(held_out=0.5, steps=80), (data, images, labels))
    assert trained.accuracy < 0.9


@pytest.mark.parametrize("held_out", [0.001, 0.999])
def test_both_parts_hold_an_image(store, make_dataset, held_out):
    data = make_dataset(count=2, classes=2)
    images, labels = load_dataset_tensors(store, data)
    trained = train(settings(held_out=held_out, steps=2), (data, images, labels))
    assert trained.accuracy in (0.0, 1.0)


def test_a_diverged_training_says_so(stripes, monkeypatch):
    monkeypatch.setattr(
        "slimctl.jobs.training.classifier.functional.cross_entropy",
        lambda logits, _: logits.sum() * torch.inf,
    )
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf|-inf) at step 49") as error:
        train(settings(), stripes)
    assert error.value.fix == "lower learning_rate"
