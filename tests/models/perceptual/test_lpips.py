import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.models.perceptual.cost import vgg_macs
from slimctl.models.perceptual.lpips import DEPTHS, LPIPS, SCALE, SHIFT, WIDTHS, fill_lpips


def torchvision_vgg() -> nn.Sequential:
    """VGG-16's convolutions in the order and with the names of torchvision's `features`."""
    layers: list[nn.Module] = []
    inputs = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0):
        if width == 0:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def published():
    """VGG-16 with random weights, its state, and random weights of the channels."""
    torch.manual_seed(0)
    vgg = torchvision_vgg().requires_grad_(requires_grad=False)
    state = {f"features.{name}": value for name, value in vgg.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(2, 2)
    linear = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate(WIDTHS)}
    return vgg, state, linear


@pytest.fixture
def make(published):
    def filled(size=None):
        network = LPIPS(size)
        fill_lpips(network, *published[1:])
        return network

    return filled


def by_hand(published, x, y):
    """The sum of the five layers, written out."""
    vgg, _, linear = published
    taps = (3, 8, 15, 22, 29)  # the rectifications before each pooling, and the last one
    shift, scale = (torch.tensor(each)[None, :, None, None] for each in (SHIFT, SCALE))
    total = torch.zeros(len(x))
    a, b = (x - shift) / scale, (y - shift) / scale
    for number, layer in enumerate(vgg[: taps[-1] + 1]):
        a, b = layer(a), layer(b)
        if number in taps:
            level = taps.index(number)
            units = [each / each.norm(dim=1, keepdim=True).clamp_min(1e-10) for each in (a, b)]
            weights = linear[f"lin{level}.model.1.weight"]
            total += functional.conv2d((units[0] - units[1]) ** 2, weights).mean(dim=(1, 2, 3))
    return total


def images(*shape):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(2, *shape, generator=generator) * 2 - 1).unbind()


def test_the_distance_is_its_formula(published, make):
    x, y = images(3, 3, 16, 16)
    torch.testing.assert_close(make()(x, y), by_hand(published, x, y), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(make()(x, x), torch.zeros(3))
    torch.testing.assert_close(make()(x, y), make()(y, x))


def test_images_are_resized_first(published, make):
    x, y = images(2, 3, 8, 8)
    larger = [
        functional.interpolate(each, 16, mode="bilinear", align_corners=True) for each in (x, y)
    ]
    torch.testing.assert_close(make(16)(x, y), make()(*larger))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_package_finds_the_same_distance_and_gradient():
    """The package `lpips` after SlimFlow's resizing, on random VGG weights in both."""
    pytest.importorskip("torchvision")
    package = pytest.importorskip("lpips")
    theirs = package.LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False).eval()
    layers = theirs.net.state_dict().items()  # slice1.0.weight and so on
    state = {f"features.{name.partition('.')[2]}": value for name, value in layers}
    linear = {
        f"lin{number}.model.1.weight": getattr(theirs, f"lin{number}").model[1].weight.detach()
        for number in range(len(WIDTHS))
    }
    ours = LPIPS(64)
    fill_lpips(ours, state, linear)
    x, y = images(3, 3, 32, 32)
    found = []
    for distance in (ours, lambda a, b: theirs(*map(_resized, (a, b))).flatten()):
        point = x.clone().requires_grad_()
        value = distance(point, y)
        value.sum().backward()
        found.append((value.detach(), point.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-8)
    assert functional.cosine_similarity(*(grad.flatten() for _, grad in found), dim=0) > 0.9999


def _resized(images, size=64):
    return functional.interpolate(images, size, mode="bilinear", align_corners=True)


def test_grey_images_have_three_equal_colours(make):
    x, y = images(2, 1, 16, 16)
    torch.testing.assert_close(make()(x, y), make()(x.repeat(1, 3, 1, 1), y.repeat(1, 3, 1, 1)))


def test_only_the_images_have_gradients_and_they_are_finite(make):
    network = make()
    x = torch.full((1, 3, 16, 16), -1.0, requires_grad=True)  # flat: many features are 0
    network(x, torch.zeros(1, 3, 16, 16)).sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0
    assert all(weight.grad is None for weight in network.parameters())


def test_multiply_adds_are_those_of_the_convolutions():
    network, counts = LPIPS(None), []

    def count(layer, _, output):
        counts.append(output.numel() * layer.weight[0].numel())

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    network._features(torch.zeros(1, 3, 32, 32))
    assert sum(counts) == vgg_macs(32)
    assert len(counts) == sum(DEPTHS)


def test_weights_of_something_else_are_refused(published):
    _, state, linear = published
    with pytest.raises(ValueError, match=r"missing levels\.0\.0\.weight") as caught:
        fill_lpips(LPIPS(), {"features.99.weight": torch.zeros(1)}, linear)
    assert "unexpected features.99.weight (1,)" in str(caught.value)
    wrong = {**linear, "lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}
    with pytest.raises(ValueError, match=r"misshapen weights.0 \(3,\), wanted \(64,\)"):
        fill_lpips(LPIPS(), state, wrong)
