"""The classifier: shapes, independence of the batch, and that it learns digits in seconds."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.spec import ImageShape

DIGITS = ImageShape(channels=1, size=8, classes=10)


@pytest.mark.parametrize("size", [1, 7, 32])
def test_shapes_for_any_size(size):
    levels = min(3, (size - 1).bit_length() + 1)
    spec = ClassifierSpec(channels=8, channel_multipliers=(1, 2, 3)[:levels], features=5)
    network = spec.build(ImageShape(channels=3, size=size, classes=4))
    images = torch.randn(2, 3, size, size)
    assert network.features(images).shape == (2, 5)
    assert network(images).shape == (2, 4)


def test_features_do_not_depend_on_the_batch():
    network = ClassifierSpec().build(DIGITS)
    images = torch.randn(4, 1, 8, 8)
    assert torch.allclose(network.features(images)[:1], network.features(images[:1]), atol=1e-5)


def test_what_cannot_be_classified_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 classes, the images have 0\n  fix"):
        ClassifierSpec().check(ImageShape(channels=1, size=8))
    with pytest.raises(ValueError, match="at most 4 channel_multipliers"):
        ClassifierSpec(channel_multipliers=(1,) * 5).build(DIGITS)


def test_it_learns_digits():
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    torch.manual_seed(0)
    network = ClassifierSpec(channels=16).build(DIGITS)
    steps = 120
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(1400, (64,))
        loss = functional.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        correct = network(images[1400:]).argmax(dim=1) == labels[1400:]
    assert correct.float().mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, ImageShape(channels=1, size=8, classes=10)),
        ({"channels": 12, "channel_multipliers": (1, 1, 3), "blocks": 2, "features": 7},
         ImageShape(channels=3, size=20, classes=4)),
    ],
)  # fmt: skip
def test_the_size_is_that_of_the_network(changes, image):
    spec = ClassifierSpec(**changes)
    network, counts = spec.build(image), []

    def count(layer, _, output):
        counts.append(output.numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    network.features(torch.zeros(1, image.channels, image.size, image.size))
    size = spec.size(image)
    assert size.macs == sum(counts)
    assert size.parameters == sum(weight.numel() for weight in network.parameters())
