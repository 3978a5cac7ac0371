import pytest
import torch
from torch import nn

from slimctl.models.generators import OneStepGenerator
from slimctl.models.spec import ImageShape


class Recorder(nn.Module):
    def forward(self, xt, t, label):
        self.seen = (t, label)
        return 0.5 * xt + t[:, None, None, None]


@pytest.mark.parametrize("t_start", [0.0, 0.25])
def test_the_step_has_factor_one_whatever_the_start(t_start):
    network = Recorder()
    generator = OneStepGenerator(network, ImageShape(channels=1, size=3), t_start)
    x0 = torch.randn(4, 1, 3, 3)
    images = generator.generate(x0)
    torch.testing.assert_close(images, x0 + 0.5 * x0 + t_start)
    assert network.seen[0].tolist() == [t_start] * 4
    assert torch.equal(generator(x0), images)
    assert generator.t_start == t_start


def test_labels_reach_the_network():
    network = Recorder()
    generator = OneStepGenerator(network, ImageShape(channels=1, size=3, classes=4))
    generator.generate(torch.zeros(2, 1, 3, 3), torch.tensor([1, 3]))
    assert network.seen[1].tolist() == [1, 3]
    with pytest.raises(ValueError, match="4 classes"):
        generator.generate(torch.zeros(2, 1, 3, 3))
