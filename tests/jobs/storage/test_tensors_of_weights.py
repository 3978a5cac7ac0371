import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.tensors import load_weights, save_weights
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=4)


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(2, width)
        self.norm = nn.BatchNorm1d(width)


@pytest.fixture
def handle(commit):
    """A generator whose weights are those of a Net."""
    torch.manual_seed(0)
    network = Net()
    made = Generator(image=IMAGE, network={}, parameters=1)
    return commit(made, "distill-1", weights=network.state_dict()), network.state_dict()


def test_weights_round_trip_with_their_buffers(store, handle):
    artifact, state = handle
    torch.manual_seed(1)
    network = Net()
    load_weights(network, store, artifact)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_every_tensor_that_differs_is_named(store, handle):
    network = Net(width=4)
    network.extra = nn.Linear(1, 1, bias=False)
    del network.norm
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(network, store, handle[0])
    message = str(error.value)
    assert error.value.where == "distill-1"
    assert "linear.weight is (3, 2) instead of (4, 2)" in message
    assert "linear.bias is (3,) instead of (4,)" in message
    assert "extra.weight is missing" in message
    assert "norm.running_mean is unexpected" in message
    assert message.count(";") == 3 + 5 - 1
    for name, value in network.state_dict().items():  # nothing was half loaded
        assert torch.equal(value, before[name])


def test_saving_takes_parameters_as_they_are(tmp_path):
    network = Net()
    weights = dict(network.named_parameters()) | {"turned": torch.arange(6.0).view(2, 3).T}
    save_weights(weights, tmp_path / "w.safetensors")
    loaded = load_file(tmp_path / "w.safetensors")
    assert set(loaded) == set(weights)
    assert torch.equal(loaded["turned"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
