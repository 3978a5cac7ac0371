import pytest
import torch

from slimctl.models.metrics.cost import count_macs, count_parameters
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.spec import ImageShape

PLANE = ImageShape(channels=2, size=1, classes=8)


def test_the_parameters_are_those_of_the_layers():
    network = MLPSpec(width=20, layers=2, frequencies=4).build(PLANE)
    layers = 2 * (20 * 20 + 20)
    expected = (2 * 20 + 20) + 9 * 20 + 8 * 20 + layers + (20 * 2 + 2)
    assert count_parameters(network) == expected == 1282
    assert count_macs(network, PLANE) == 2 * 20 + 9 * 20 + 2 * 400 + 40


@pytest.mark.parametrize("image", [PLANE, ImageShape(channels=3, size=4)])
def test_it_keeps_the_shape_and_treats_samples_apart(image):
    network = MLPSpec(width=16).build(image)
    x = torch.randn(6, image.channels, image.size, image.size)
    t, label = torch.rand(6), torch.arange(6) if image.classes else None
    whole = network(x, t, label)
    assert whole.shape == x.shape
    alone = network(x[2:3], t[2:3], None if label is None else label[2:3])
    torch.testing.assert_close(alone, whole[2:3])


def test_it_sees_time_and_label():
    network = MLPSpec(width=16).build(PLANE)
    x = torch.randn(1, 2, 1, 1)
    one = network(x, torch.tensor([0.2]), torch.tensor([1]))
    assert not torch.equal(one, network(x, torch.tensor([0.3]), torch.tensor([1])))
    assert not torch.equal(one, network(x, torch.tensor([0.2]), torch.tensor([2])))


def test_labels_go_with_classes():
    with pytest.raises(ValueError, match="got no label"):
        MLPSpec().build(PLANE)(torch.zeros(1, 2, 1, 1), torch.zeros(1))
    plain = MLPSpec().build(ImageShape(channels=2, size=1))
    with pytest.raises(ValueError, match="has no classes"):
        plain(torch.zeros(1, 2, 1, 1), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def test_large_images_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"12288 values.*\n  fix: use a song_unet"):
        MLPSpec().check(ImageShape(channels=3, size=64))


def test_it_learns_a_map():
    torch.manual_seed(0)
    network = MLPSpec(width=20).build(PLANE)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(400):
        x, label = torch.randn(64, 2, 1, 1), torch.randint(8, (64,))
        wanted = x.flip(1) * (label[:, None, None, None] - 4) / 4
        loss = (network(x, torch.zeros(64), label) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05  # 0.36 for the best constant
