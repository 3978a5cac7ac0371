import pytest
import torch
from torch import nn

from slimctl.models.flows.flow import Flow, NetworkFlow
from slimctl.models.spec import ImageShape


class Scale(nn.Module):
    """v = w t x, or w t x + label for a conditional flow."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, xt, t, label):
        velocity = self.weight * t[:, None, None, None] * xt
        return velocity if label is None else velocity + label[:, None, None, None]


def test_a_network_is_called_with_time_and_label():
    flow = NetworkFlow(Scale(), ImageShape(channels=1, size=2, classes=3))
    xt, t, label = torch.ones(2, 1, 2, 2), torch.tensor([0.5, 1.0]), torch.tensor([0, 2])
    velocity = flow.velocity(xt, t, label)
    assert velocity[:, 0, 0, 0].tolist() == [1.0, 4.0]
    velocity.sum().backward()
    assert flow.network.weight.grad is not None


def test_labels_are_checked():
    xt, t = torch.ones(2, 1, 2, 2), torch.zeros(2)
    conditional = NetworkFlow(Scale(), ImageShape(channels=1, size=2, classes=3))
    plain = NetworkFlow(Scale(), ImageShape(channels=1, size=2))
    with pytest.raises(ValueError, match="3 classes: pass a label"):
        conditional.velocity(xt, t)
    with pytest.raises(ValueError, match=r"from 0 to 3: this model has 0\.\.2"):
        conditional.velocity(xt, t, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="from -1 to 0"):
        conditional.velocity(xt, t, torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match="unconditional"):
        plain.velocity(xt, t, torch.tensor([0, 0]))
    assert conditional.velocity(xt[:0], t[:0], torch.tensor([], dtype=torch.int64)).shape[0] == 0


def test_t_start_is_checked_and_flow_is_abstract():
    image = ImageShape(channels=1, size=2)
    with pytest.raises(ValueError, match=r"t_start is 1\.0"):
        NetworkFlow(Scale(), image, t_start=1.0)
    with pytest.raises(TypeError):
        Flow(image)
