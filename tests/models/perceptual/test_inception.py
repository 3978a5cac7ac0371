import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.models.perceptual.cost import INCEPTION_MACS
from slimctl.models.perceptual.inception import (
    DIMENSIONS,
    UNUSED,
    Inception,
    Mixed,
    Step,
    resize_like_tensorflow,
)
from slimctl.models.perceptual.weight_file import fill


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Inception().eval().requires_grad_(requires_grad=False)


def test_the_published_size(network):
    """As torch-fidelity's own network of the same weights has, without its classifier."""
    parameters = sum(weight.numel() for weight in network.parameters())
    statistics = sum(number.numel() for number in network.buffers())
    assert (parameters, statistics) == (21_785_568, 34_432)
    assert len(network.state_dict()) == 94 * 5
    assert "Mixed_7c.branch3x3dbl_3b.bn.running_var" in network.state_dict()


def test_features_and_multiply_adds(network):
    counts = []

    def count(layer, _, output):
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    features = network(torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    assert features.shape == (1, DIMENSIONS)
    assert sum(counts) == INCEPTION_MACS


def test_resizing_starts_in_the_corner_of_a_pixel():
    """A ramp of 2 pixels resized to 4: places 0, 0.5, 1 and 1.5, the last one cut at the border."""
    ramp = torch.tensor([0.0, 10.0]).expand(1, 1, 2, 2)
    expected = torch.tensor([0.0, 5.0, 10.0, 10.0])
    torch.testing.assert_close(resize_like_tensorflow(ramp, 4), expected.expand(1, 1, 4, 4))
    torch.testing.assert_close(
        resize_like_tensorflow(ramp.mT.contiguous(), 4), expected[:, None].expand(1, 1, 4, 4)
    )


def test_resizing_is_bilinear_sampling_on_that_grid():
    images = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0))
    place = [(torch.arange(12) * n / 12).clamp_max(n - 1) * 2 / (n - 1) - 1 for n in (7, 5)]
    grid = torch.stack(torch.meshgrid(*place, indexing="ij")[::-1], dim=-1)
    expected = functional.grid_sample(images, grid.expand(2, -1, -1, -1), align_corners=True)
    torch.testing.assert_close(resize_like_tensorflow(images, 12), expected)


def test_a_block_by_hand():
    """One branch of 1x1 weights 2, and a pool by mean that leaves the padding out."""
    block = Mixed(1, ((Step("branch1x1", 1),),), "mean", 1).eval()
    with torch.no_grad():
        block.branch1x1.conv.weight.fill_(2.0)
        block.branch_pool.conv.weight.fill_(1.0)
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    made = block(x)
    scale = (1 + 1e-3) ** -0.5  # of a normalisation with mean 0 and variance 1
    torch.testing.assert_close(made[:, :1], 2 * x * scale)
    corner = (0 + 1 + 3 + 4) / 4
    assert made[0, 1, 0, 0].item() == pytest.approx(corner * scale)
    assert made[0, 1, 1, 1].item() == pytest.approx(4 * scale)


def test_a_published_state_fills_the_network(network):
    state = dict(network.state_dict())
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    state["Conv2d_1a_3x3.bn.num_batches_tracked"] = torch.tensor(0)
    other = Inception()
    fill(other, state, ignored=UNUSED)
    assert not other.training
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(other(images), network(images))
    del state["Mixed_5b.branch1x1.conv.weight"]
    state["more"] = torch.zeros(2)
    with pytest.raises(
        ValueError, match=r"2 tensors differ:\n  missing Mixed_5b.*\n  unexpected m"
    ):
        fill(Inception(), state, ignored=UNUSED)
